"""`pipeline plan RECIPE --gpus N`: what each stage needs, which setting fits, how long it takes and what it costs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import Source
from data.errors import DataError
from data.sources import resolve
from pipeline.errors import RecipeError
from pipeline.estimate.calibrating import Measured, calibrate
from pipeline.estimate.choosing import Option, choose, nearest, options, processes
from pipeline.estimate.machine import Machine, machine
from pipeline.estimate.models import Model, Models, players
from pipeline.estimate.stages import Disk, Stage, disk, hours, model_flops, share, total_steps
from pipeline.jobs import source_folder
from pipeline.plan import Plan, Step
from pipeline.references import sources
from stages.contract import Hardware
from stages.core.config import CHARACTERS_PER_TOKEN
from stages.core.workload import Workload


@dataclass(frozen=True)
class Estimate:
    """What is told of one stage."""

    stage: Stage
    options: list[Option]
    chosen: Option | None
    near: str
    """Where none fits: what does."""
    flops: float | None
    hours: float | None
    writing: float
    """Hours of these in which answers are drawn."""
    price: float | None
    disk: Disk
    measured: Measured | str | None = None
    """A few steps of the stage on this machine; or why they were not taken."""

    @property
    def unshared(self) -> bool:
        """Whether no option is possible because so many processes cannot share a step."""
        return self.chosen is None and share(self.stage, self.options[0].setting.processes) is not None


def estimate(plan: Plan, machine: Machine, only: Sequence[str] | None = None, *, measure: bool = False) -> list[Estimate]:
    """Every stage that holds a model. Raises RecipeError where a model's shape cannot be told."""
    models, found = Models(plan), []
    hardware = plan.recipe.hardware
    for step in plan.steps:
        taken = models.of_step(step)
        work = step.config.workload()
        if work is not None and (only is None or step.name in only):
            measured = calibrate(plan, step) if measure else None
            found.append(_estimated(plan, step, work, taken, hardware, machine, measured))
    return found


def _estimated(
    plan: Plan,
    step: Step,
    work: Workload,
    taken: dict[str, Model],
    hardware: Hardware,
    machine: Machine,
    measured: Measured | str | None = None,
) -> Estimate:
    stage = Stage(step.name, step.kind, work, tuple(players(work, taken)), _data_tokens(plan, step, work))
    found = options(stage, step.config, hardware, machine)
    chosen = choose(found)
    near = "" if chosen else nearest(stage, step.config, taken, hardware, machine)
    setting = (chosen or found[-1]).setting
    time = hours(stage, setting, machine) if chosen else None
    if isinstance(measured, Measured) and chosen and (known := _by_measure(stage, measured, setting.processes)) is not None:
        time = known, 0.0
    devices = processes(step.config, hardware, machine) if machine.gpus else machine.nodes
    price = time[0] * devices * machine.price if time and machine.price is not None else None
    return Estimate(
        stage,
        found,
        chosen,
        near,
        model_flops(stage),
        time[0] if time else None,
        time[1] if time else 0.0,
        price,
        disk(stage, setting, plan.recipe.checkpoints),
        measured,
    )


def _by_measure(stage: Stage, measured: Measured, count: int) -> float | None:
    """Hours by what a few steps took, shared by other processes than those that were measured; None where the stage's size is not known."""
    if measured.tokens is not None:
        return None if stage.tokens is None else stage.tokens / measured.tokens / 3600 * measured.processes / count
    steps = total_steps(stage)
    return None if steps is None else steps * measured.seconds / 3600 * measured.processes / count


def _data_tokens(plan: Plan, step: Step, work: Workload) -> float | None:
    """Tokens of the stage's data by the size of its files; None if some of it is not on this machine yet."""
    total = 0.0
    for path, source in sources(step.config):
        if path.rpartition(".")[0] in work.data:
            size = _bytes(plan, source)
            if size is None:
                return None
            total += size / CHARACTERS_PER_TOKEN
    return total or None


def _bytes(plan: Plan, source: Source) -> float | None:
    try:
        files: list[Path] = resolve(source, plan.recipe.root, source_folder(plan, source.stage))
    except (DataError, OSError):
        return None
    return float(sum(file.stat().st_size for file in files)) or None


def told(found: Sequence[Estimate], machine: Machine, *, as_json: bool) -> str:
    """Everything, for people or for programs."""
    from pipeline.estimate.telling import estimate_json, estimate_text

    return json.dumps(estimate_json(found, machine), indent=1) if as_json else estimate_text(found, machine)


def main(plan: Plan, words: Any) -> int:
    """The part of `pipeline plan` behind `--gpus`. Exit code 0 if every stage fits, 1 if one does not."""
    hardware = plan.recipe.hardware
    nodes = len(hardware.hosts) or hardware.nodes
    given = {"nodes": words.nodes or nodes or 1, "price": words.price, "mfu": words.mfu, "processes": hardware.processes or 1}
    made = machine(words.gpus, words.gpu_memory, words.gpu, **given)
    if made.price is not None and made.gpu is None and not words.calibrate:
        raise RecipeError("--price: there is no price without a time, which --gpu names a device for, or --calibrate measures here")
    for key, asked, other in (("gpus", hardware.gpus, made.gpus), ("nodes", nodes, made.nodes)):
        if asked not in ("auto", None, other):
            print(f"note: this plan is for --{key} {other}, and a run would take hardware.{key}: {asked}", file=sys.stderr)
    selected = [step.name for step in plan.steps if step.action != "left out"]
    found = estimate(plan, made, selected, measure=words.calibrate)
    if not found:
        raise RecipeError(f"no stage of {plan.recipe.file} that is asked for holds a model")
    print(told(found, made, as_json=words.json))
    return 0 if all(each.chosen for each in found) else 1
