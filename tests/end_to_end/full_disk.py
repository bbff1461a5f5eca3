"""Stages on a small disk that fills up: a script for `test_full_disk.py`, run where it may mount (`unshare -rm`).

    unshare -rm python full_disk.py FOLDER

A disk is a tmpfs with the whole stage folder on it, log included, as a user's is. Something else takes the room that is left at one moment of a
stage; then there is room again and the stage is started once more. One line of JSON for each: what the first attempt did, what it left, and whether
the second one ended with the weights and numbers of a run that nothing disturbed. Stages are forked, so that torch is loaded once.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.kill import load, outcome, surround
from benchmarks.kill_stages import JOBS
from stages.contract import Checkpoints, Hardware

SMALL, LARGE = "3m", "64m"
STAGES = ("pretrain", "ppo")


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take all the room that is left."""
    with (disk / "other").open("wb", buffering=0) as other:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    other.write(b"0" * size)
            except OSError:
                continue


def before(owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Act before the call of that number (from 1) of a method or function."""
    call, calls = getattr(owner, name), [0]

    def calling(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return call(*arguments, **named)

    setattr(owner, name, calling)


def plant(moment: str, disk: Path) -> None:
    """Fill the disk at that moment of this process."""
    from stages import __main__ as entry
    from stages.core import artifacts, checkpoints, metrics
    from stages.core.checkpoints import Saver

    places = {
        "a line of the record": (metrics.Metrics, "log", 3),
        "a checkpoint, looking for room": (Saver, "_room", 2),
        "a checkpoint, writing": (checkpoints, "_begin", 2),
        "a checkpoint, sealing": (checkpoints, "seal", 2),
        "the artifact": (artifacts, "publish", 1),
        "the result": (entry, "write_json", 1),
    }
    before(*places[moment], lambda: fill(disk))


MOMENTS = (
    "a line of the record",
    "a checkpoint, looking for room",
    "a checkpoint, writing",
    "a checkpoint, sealing",
    "the artifact",
    "the result",
)


def attempt(job: Any, planted: Callable[[], None] = lambda: None) -> int:
    """One process of the stage, its output in the attempt's log."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with (job.folder / "attempts" / "1" / "log.txt").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            planted()
            from stages.__main__ import main as stage

            code = stage([str(job.folder / "job.json")])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepared(stage: str, disk: Path, place: Path) -> Any:
    job = JOBS[stage](disk / "stage", place)
    hardware = Hardware(gpus=0, threads=1, micro_batch=4, precision="fp32")
    job = job.model_copy(update={"hardware": hardware, "checkpoints": Checkpoints(every_steps=2)})
    (job.folder / "attempts" / "1").mkdir(parents=True)
    (job.folder / "job.json").write_text(job.model_dump_json())
    return job


def disturbed(stage: str, moment: str, disk: Path, place: Path, whole: Any) -> dict[str, Any]:
    from stages.core import checkpoints

    mount(disk, f"size={SMALL}")
    try:
        job = prepared(stage, disk, place)
        code = attempt(job, lambda: plant(moment, disk))
        free = os.statvfs(disk).f_bavail
        log = (job.folder / "attempts" / "1" / "log.txt").read_text().splitlines()
        found = sorted((job.folder / "checkpoints").glob("step-*"))
        left = [path.name for path in found if checkpoints.damage(path) is None]
        (disk / "other").unlink()
        again = attempt(job)
        return {
            "stage": stage, "moment": moment, "code": code, "free": free, "said": log[-1] if log else "", "whole": left, "found": len(found),
            "again": again, "equal": again == 0 and outcome(job) == whole,
        }  # fmt: skip
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def too_small(stage: str, disk: Path, place: Path) -> dict[str, Any]:
    mount(disk, "size=300k")
    try:
        job = prepared(stage, disk, place)
        code = attempt(job)
        log = (job.folder / "attempts" / "1" / "log.txt").read_text().splitlines()
        return {"stage": stage, "moment": "too small", "code": code, "said": log[-1], "begun": (job.folder / "checkpoints.jsonl").exists()}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def orchestrated(moment: str, owner: Any, name: str, number: int, disk: Path) -> dict[str, Any]:
    """A whole run of toy stages whose disk fills up while the orchestrator writes."""
    from pipeline.__main__ import main as pipeline

    mount(disk, f"size={SMALL}")
    os.chdir(disk)
    kept, said = getattr(owner, name), io.StringIO()
    try:
        Path("chain.yaml").write_text("name: chain\nstages:\n  base: {kind: toy-train}\n  exam: {kind: toy-exam, models: [base]}\n")
        before(owner, name, number, lambda: fill(disk))
        with redirect_stderr(said), redirect_stdout(said):
            code = pipeline(["run", "chain.yaml"])
            setattr(owner, name, kept)
            (disk / "other").unlink()
            told = said.getvalue()
            again, whole = pipeline(["run", "chain.yaml"]), pipeline(["doctor", "runs/chain"])
        return {"stage": "pipeline", "moment": moment, "code": code, "said": told, "again": again, "doctor": whole}
    finally:
        setattr(owner, name, kept)
        os.chdir("/")
        subprocess.run(["umount", str(disk)], check=True)


def orchestrator(disk: Path) -> None:
    from pipeline import execute, store
    from tests.pipeline.forked import fork
    from tests.pipeline.toy import register

    register()
    execute.spawn = fork  # type: ignore[assignment]
    for moment, owner, name, number in (
        ("the recipe", store.Run, "record_recipe", 1),
        ("the orders", execute, "write_json", 1),
        ("how it ended", execute, "write_json", 3),
        ("the history", store.Run, "event", 2),
        ("the manifest", store.StageFolder, "seal", 1),
        ("the link", store.Run, "make_current", 1),
    ):
        print(json.dumps(orchestrated(moment, owner, name, number, disk)), flush=True)


def main(place: Path) -> None:
    disk = place / "disk"
    disk.mkdir()
    orchestrator(disk)
    surround(0)
    load(list(STAGES), 0)
    for stage in STAGES:
        job = prepared(stage, place / stage, place)
        assert attempt(job) == 0, (job.folder / "attempts" / "1" / "log.txt").read_text()
        whole = outcome(job)
        for moment in MOMENTS:
            print(json.dumps(disturbed(stage, moment, disk, place, whole)), flush=True)
        print(json.dumps(too_small(stage, disk, place)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
