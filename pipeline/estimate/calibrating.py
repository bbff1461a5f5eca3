"""`--calibrate`: a few real steps of a stage on this machine, in a process of its own as a run would start it, in place of assumptions."""

import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.estimate.deciding import decided
from pipeline.jobs import make_job
from pipeline.launch import command, environment, processes
from pipeline.plan import Plan, Step
from pipeline.references import repository

STEPS = 6
"""Steps that are taken; the first ones, in which memory and kernels are made ready, are not counted."""
UNCOUNTED = 2
LONGEST = 1800.0
"""Seconds that a stage has for them."""


@dataclass(frozen=True)
class Measured:
    """What a few steps took."""

    processes: int
    seconds: float
    """Of one step (a rollout with its updates, for PPO)."""
    tokens: float | None
    """A second, over all processes."""
    memory: int
    """Most bytes that the first process held: of its device, or of main memory with all that libraries take."""


def calibrate(plan: Plan, step: Step) -> Measured | str:
    """A few steps of a stage, measured; or why they could not be."""
    for reference in plan.recipe.references[step.name]:
        if reference.form == "stage" and plan.step(reference.value).manifest is None:
            return f"not measured: '{reference.value}' is not done yet"
        if reference.form == "hub" and f"model {repository(reference.value)}" not in plan.run.pins():
            return f"not measured: no run has settled yet on a commit of {reference.value}"
    brief = step.config.brief(STEPS)
    if brief is None:
        return "not measured: it takes no steps"
    hardware, _ = decided(plan, step)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "stage"
        (folder / "attempts" / "1").mkdir(parents=True)
        try:
            job = make_job(plan, replace(step, config=brief), 1, hardware).model_copy(update={"folder": folder})
        except PipelineError as error:
            return f"not measured: {error}"
        file = folder / "job.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        told = _carried_out(command(file, hardware), folder, environment(hardware, os.environ))
        lines = _lines(folder / "metrics.jsonl")
    return _measured(lines, processes(hardware)) or f"not measured: it ended before it had taken {UNCOUNTED + 1} steps ({told})"


def _carried_out(argv: list[str], folder: Path, surroundings: dict[str, str]) -> str:
    """Run until enough steps are recorded, or to the end; the last line of what was said."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        child = subprocess.Popen(argv, cwd=folder, env=surroundings, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            until = time.monotonic() + LONGEST
            while child.poll() is None and len(_lines(folder / "metrics.jsonl")) < STEPS and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]


def _lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines of a stage's record, of its training steps alone."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and ("loss" in line or "kl" in line)]


def _measured(lines: list[dict[str, Any]], count: int) -> Measured | None:
    """Means over the steps after the first ones; None where there are none."""
    if len(lines) <= UNCOUNTED:
        return None
    first, last = lines[UNCOUNTED - 1], lines[-1]
    seconds = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    # PPO's lines have the tokens of their own rollout, the others' those since the start.
    rate = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]) if "tokens" in first and "kl" not in last else None
    return Measured(count, seconds, rate, max(int(line.get("memory_bytes", 0)) for line in lines))
