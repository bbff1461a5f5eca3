"""Where a run stands now: what `pipeline status` shows."""

from collections.abc import Mapping
from typing import Any

from pipeline.ending import last_lines
from pipeline.lock import held_by, holder, works_on
from pipeline.plan import Step, make_plan
from pipeline.progress import last_record, numbers, position
from pipeline.recipe import Recipe
from pipeline.store import Run, age

STATES = {"skip": "done", "seal": "to seal", "resume": "to resume", "run": "to run", "blocked": "blocked", "left out": "left out"}


def standing(recipe: Recipe, run: Run) -> dict[str, Any]:
    """State of every stage, and who works on the run."""
    held = held_by(run.lock)
    active = holder(run.lock) if held else {}
    stages = [_stage(step, active) for step in make_plan(recipe, run).steps]
    return {
        "name": recipe.name,
        "run": str(run.path),
        "held": held,
        "stages": stages,
    }


def holding(recipe: Recipe, run: Run) -> dict[str, Any]:
    """As `standing`, of what the run's links point to: where what the recipe asks for cannot be told."""
    stages = []
    for name in run.named():
        folder = run.current(name)
        manifest = (folder.manifest() if folder else None) or {}
        text = f"{age(manifest['finished'])}  {numbers(manifest['metrics'])}" if manifest else "not finished"
        known = {"kind": manifest.get("kind", ""), "metrics": manifest.get("metrics", {}), "folder": str(folder.path) if folder else ""}
        attempts = len(folder.attempts()) if folder else 0
        stages.append({"name": name, "state": "done" if manifest else "to resume", "text": text, "attempts": attempts, **known})
    return {"name": recipe.name, "run": str(run.path), "held": held_by(run.lock), "stages": stages}


def going_on(found: Mapping[str, Any]) -> str | None:
    """What `pipeline run` would do with a run that stands so: begin it or go on; None where nothing is left, or a process works on it."""
    states = {stage["state"] for stage in found["stages"]}
    if found["held"] or states == {"done"}:
        return None
    return "to begin" if states == {"to run"} else "to go on"


def _stage(step: Step, active: Mapping[str, Any]) -> dict[str, Any]:
    """One stage; `active` says what is worked on now."""
    record = last_record(step.folder.path / "metrics.jsonl") if step.manifest is None else None
    metrics = dict(step.manifest["metrics"]) if step.manifest else record or {}
    live = step.manifest is None and works_on(step.folder.path)
    return {
        "name": step.name,
        "kind": step.kind,
        "state": "runs" if live else STATES[step.action],
        "text": _progress(step, record or {})
        if live
        else f"{step.reason.removeprefix('done ')}  {numbers(metrics) if step.manifest else ''}".rstrip() + _elsewhere(step, active),
        "metrics": metrics,
        "folder": str(step.folder.path),
        "attempts": len(step.folder.attempts()),
    }


def _progress(step: Step, record: dict[str, Any]) -> str:
    """How far a stage that runs now has come; before its first numbers, and where it has none, the last line of its log."""
    attempts = step.folder.attempts()
    said = last_lines(attempts[-1].log)[-1:] if attempts else []
    return "  ".join(filter(None, (position(record), numbers(record)))) or "".join(said) or "starting"


def _elsewhere(step: Step, active: Mapping[str, Any]) -> str:
    """That a stage of this name runs now with other settings."""
    other = active.get("stage") == step.name and active.get("folder") != step.folder.path.name
    return f"; with other settings it runs now, in {active.get('folder')}" if other else ""
