"""Stages that take milliseconds and misbehave on request. They are real stages: a settings class, a run function, a registry line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.config import Context, Source, Spec, Wants
from data.errors import DataError
from stages.contract import Artifact, Hardware, Job, Result, StageError, Table
from stages.core.config import ModelRef, RewardPart, StageConfig
from stages.core.divergence import RolledBack
from stages.core.interrupt import Interrupted, interruptible
from stages.core.watchdog import watching
from stages.registry import STAGES

PATIENCE = 60.0
KINDS = {
    "toy-data": ("tests.pipeline.toy:Data", "tests.pipeline.toy:make_data"),
    "toy-train": ("tests.pipeline.toy:Train", "tests.pipeline.toy:train"),
    "toy-exam": ("tests.pipeline.toy:Exam", "tests.pipeline.toy:exam"),
}
Behaviour = Literal[
    "well",
    "fail",
    "bug",
    "data",
    "crash",
    "wait",
    "deaf",
    "empty",
    "silent",
    "wrong-kind",
    "leave-children",
    "half",
    "crash-once",
    "roll-back-once",
    "hang",
    "doomed",
]


class Data(StageConfig):
    """Writes a few rows."""

    makes: ClassVar[str] = "dataset"
    kind: Literal["toy-data"] = "toy-data"
    rows: int = 3


class Rates(Spec):
    learning_rate: float = Field(0.1, gt=0, lt=1)
    """Peak learning rate."""
    clip: float = 1.0


class Train(StageConfig):
    """Counts to `steps`."""

    makes: ClassVar[str] = "causal-lm"
    kind: Literal["toy-train"] = "toy-train"
    model: ModelRef | None = None
    data: Annotated[tuple[Source, ...], Wants("text")] = ()
    """Text to learn."""
    rewards: tuple[RewardPart, ...] = ()
    steps: int = Field(4, gt=0)
    optimizer: Rates = Rates()
    behaviour: Annotated[Behaviour, Context()] = "well"
    """How the stage behaves; a how, so it bears no identity."""


class Exam(StageConfig):
    """Looks at models."""

    makes: ClassVar[str] = "report"
    kind: Literal["toy-exam"] = "toy-exam"
    models: Annotated[tuple[ModelRef, ...], Field(min_length=1)]


def register() -> None:
    STAGES.update(KINDS)


def make_data(job: Job, config: Data, hardware: Hardware) -> Result:
    job.artifact.mkdir()
    rows = "".join(json.dumps({"text": f"row {number} of seed {job.seed}"}) + "\n" for number in range(config.rows))
    (job.artifact / "rows.jsonl").write_text(rows)
    return Result(metrics={"rows": config.rows})


def train(job: Job, config: Train, hardware: Hardware) -> Result:
    start = _resume(job)
    with interruptible() as stop:
        for step in range(start, config.steps):
            _log(job.folder, step + 1, config.steps)
            _checkpoint(job.folder, step + 1)
            _misbehave(config.behaviour, step, job, stop)
    kind = "reward-model" if config.behaviour == "wrong-kind" else "causal-lm"
    if config.behaviour != "empty":
        job.artifact.mkdir()
        weights = json.dumps([config.model_dump(mode="json", exclude={"behaviour"}), job.seed, sorted(job.inputs), sorted(job.files)])
        (job.artifact / "weights.txt").write_text(weights + (f"{time.time_ns()}" if os.environ.get("TOY_NOISE") else ""))
        (job.artifact / "artifact.json").write_text(Artifact(kind=kind, tokenizer_digest="words").model_dump_json())
    if config.behaviour == "silent":
        os._exit(0)
    return Result(steps=config.steps, metrics={"loss": 1.0 / config.steps}, notes=[f"took {config.steps - start} steps"])


def _resume(job: Job) -> int:
    sealed = [file.parent.name for file in job.folder.glob("checkpoints/*/COMPLETE")]
    return max((int(name.removeprefix("step-")) for name in sealed), default=0)


def _log(folder: Path, step: int, steps: int) -> None:
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step, "steps": steps, "seconds": 0.1 * step, "loss": 1.0 / step}) + "\n")


def _checkpoint(folder: Path, step: int) -> None:
    (folder / f"checkpoints/step-{step:06d}").mkdir(parents=True, exist_ok=True)
    (folder / f"checkpoints/step-{step:06d}/COMPLETE").write_text('{"files": {}}')


def _misbehave(behaviour: str, step: int, job: Job, stop) -> None:  # type: ignore[no-untyped-def]
    print(f"step {step + 1}", flush=True)
    if behaviour == "doomed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour in ("wait", "deaf") and step >= 1:
        if behaviour == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (job.folder / "ready").touch()
        while not (job.folder / "go").exists():
            time.sleep(0.02)
            if stop() and behaviour == "wait":
                raise Interrupted("a checkpoint is written")
    elif step == 1 and behaviour == "leave-children":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (job.folder / "grandchild").write_text(str(child.pid))
        raise StageError("left a child behind")
    elif step == 1:
        _fail(behaviour, job)


def _fail(behaviour: str, job: Job) -> None:
    if behaviour == "fail":
        raise StageError("the loss is not a number at step 2")
    if behaviour == "bug":
        raise ZeroDivisionError("a bug")
    if behaviour == "data":
        raise DataError("rows.jsonl, row 7: found 3, wanted a text")
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "crash-once" and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "roll-back-once" and job.attempt == 1:
        raise RolledBack("step 2 is not finite; goes on from step-000001 with 0.5 of the learning rate")
    if behaviour == "hang":
        with watching(job):
            time.sleep(PATIENCE)
    if behaviour == "half":
        (job.folder / "result.json").write_text("{")
        os._exit(0)


def exam(job: Job, config: Exam, hardware: Hardware) -> Result:
    job.artifact.mkdir()
    (job.artifact / "table.md").write_text("a table\n")
    rows: list[list[str | float | None]] = [[name, 0.25 * (place + 1)] for place, name in enumerate(config.models)]
    return Result(metrics={"models": len(config.models)}, tables=[Table(title="The family", columns=["model", "score"], rows=rows)])
