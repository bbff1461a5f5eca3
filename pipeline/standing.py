"""Where a run stands now: what `pipeline status` shows."""

from typing import Any

from pipeline.lock import describe, holder, is_held
from pipeline.plan import Step, make_plan
from pipeline.progress import last_record, numbers, position
from pipeline.recipe import Recipe
from pipeline.store import Run

STATES = {"skip": "done", "seal": "to seal", "resume": "to resume", "run": "to run", "blocked": "blocked", "left out": "left out"}


def standing(recipe: Recipe, run: Run) -> dict[str, Any]:
    """State of every stage, and who works on the run."""
    working = is_held(run.lock)
    active = holder(run.lock).get("stage") if working else None
    stages = [_stage(step, active == step.name) for step in make_plan(recipe, run).steps]
    return {
        "name": recipe.name,
        "run": str(run.path),
        "held": f"held by {describe(run.lock)}" if working else None,
        "stages": stages,
    }


def _stage(step: Step, active: bool) -> dict[str, Any]:
    record = last_record(step.folder.path / "metrics.jsonl") if step.manifest is None else None
    metrics = dict(step.manifest["metrics"]) if step.manifest else record or {}
    live = active and step.manifest is None
    now = "  ".join(part for part in (position(record or {}), numbers(record or {})) if part)
    text = (now or "starting") if live else f"{step.reason}  {numbers(metrics)}".rstrip() if step.manifest else step.reason
    return {
        "name": step.name,
        "kind": step.kind,
        "state": "runs" if live else STATES[step.action],
        "text": text,
        "metrics": metrics,
        "folder": str(step.folder.path),
        "attempts": len(step.folder.attempts()),
    }
