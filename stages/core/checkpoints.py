"""Sealed checkpoints: written under another name, synced, sealed with every file's size and SHA-256, then renamed.

A folder named `step-...` is therefore whole when it appears, and `latest` trusts only the seal: a kill at any moment, a truncated file or a
flipped bit leaves the one before. Every process writes its files at a step boundary, while nothing moves; hashing, syncing and renaming need
only the files, so the first process does them in a thread while training goes on.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.contract import Checkpoints, StageError
from stages.core.files import digest, is_refused_by_disk, mib, room, sync, write_json

SEAL = "COMPLETE"
BEST = "best"
"""Link to the checkpoint with the best score."""
RECORD = "checkpoints.jsonl"
"""In the stage's folder: a line for every checkpoint that was sealed."""
DEAREST = 50
"""A checkpoint that is taken because time has passed waits for so many times the seconds that the last one cost: 2 % at most."""
MARGIN = 1.05
"""Room asked for, as a multiple of what a checkpoint is expected to need."""


@dataclass(frozen=True)
class Ground:
    """What a checkpoint can be loaded on, kept in its seal."""

    processes: int = 1
    zero: int = 0
    """ZeRO stage; DeepSpeed's files are shards of so many processes."""


@dataclass(frozen=True)
class Score:
    """A held-out number by which the best checkpoint is kept."""

    name: str
    measure: Callable[[], float]
    lower: bool = True
    """Whether a lower one is better."""


class Saver:
    """Writes the checkpoints of one stage. Every process calls every method, in the same order."""

    def __init__(
        self,
        folder: Path,
        settings: Checkpoints,
        *,
        ground: Ground = Ground(),
        first: bool = True,
        wait: Callable[[], None] = lambda: None,
        expected: int = 0,
        total: Callable[[int], int] = lambda number: number,
    ) -> None:
        """`folder` holds the checkpoints; `first` is true on the process that seals; `wait` returns once all processes have called it;
        `expected` is the size in bytes that a checkpoint will have; `total` gives the sum of all processes' numbers."""
        self.total = total
        self.folder, self.settings, self.ground, self.first, self.wait = folder, settings, ground, first, wait
        self.expected = expected
        self._sealer = ThreadPoolExecutor(1, "seal")
        self._sealing: Future[None] | None = None
        self._saved, self._cost = time.monotonic(), 0.0

    def newest(self) -> Path | None:
        """The newest whole checkpoint, as the first process finds it: another may not see it yet, and processes that begin at different steps wait
        for one another for ever."""
        found = latest(self.folder) if self.first else None
        if self.ground.processes == 1:
            return found
        step = self.total(step_of(found) + 1 if found else 0) - 1
        return self.folder / f"step-{step:06d}" if step >= 0 else None

    def is_due(self) -> bool:
        """Whether so much time has passed since the last checkpoint that a kill would lose too much."""
        minutes = self.settings.every_minutes
        if not self.first:  # clocks differ
            return False
        return minutes is not None and time.monotonic() - self._saved >= max(60 * minutes, DEAREST * self._cost)

    def save(self, step: int, write: Callable[[Path], None], score: float | None = None) -> None:
        """Write the checkpoint of `step` through `write(partial folder)` on every process. `score` is compared for the best one; higher is better.

        Raises:
            StageError: the disk has no room for it, or did not take the one before; the earlier checkpoints are untouched.
        """
        began = time.monotonic()
        if self.first:
            self._settle()
            self._room(step)
            _begin(self.folder, step)
        self.wait()
        partial = self.folder / f".partial-step-{step:06d}"
        with _told(self.folder, step):
            write(partial)
        self.wait()
        blocked = time.monotonic() - began
        if self.first:
            self._sealing = self._sealer.submit(self._seal, partial, step, score, blocked)
        self._saved, self._cost = time.monotonic(), blocked

    def finish(self) -> None:
        """Return once the last checkpoint is whole. Raises StageError if it could not be written."""
        self._settle()
        self.wait()

    def check_room(self, artifact: int, *, every: int, steps: int) -> None:
        """Before the first step: raises StageError if what a stage keeps of a checkpoint `every` so many of its `steps`, and an artifact of so many
        bytes, will not fit on the disk."""
        if not self.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        more = max(1, most_kept(self.settings, every, steps) - len(_newest_first(self.folder)))
        free, needed = shutil.disk_usage(self.folder).free, MARGIN * (more * self.expected + artifact)
        if free < needed:
            several = f"{more} checkpoints" if more > 1 else "a checkpoint"
            raise StageError(
                f"{self.folder} has {mib(free)} free; {several} of {mib(self.expected)} and an artifact of {mib(artifact)} "
                f"need {mib(needed)}: make room, or keep fewer (checkpoints.keep_last is {self.settings.keep_last}"
                + (f", keep_every {self.settings.keep_every})" if self.settings.keep_every else ")")
            )

    def _settle(self) -> None:
        """Wait for the seal in the making, and raise what went wrong with it."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def _room(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        newest = next(iter(_newest_first(self.folder)), None)
        needed = MARGIN * (size_of(newest) if newest else self.expected)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StageError(
                f"the checkpoint of step {step} needs {mib(needed)} and {mib(free)} are free in {self.folder}; the earlier ones are whole"
            )

    def _seal(self, partial: Path, step: int, score: float | None, blocked: float) -> None:
        began = time.monotonic()
        with _told(self.folder, step):
            whole = seal(partial, {"processes": self.ground.processes, "zero": self.ground.zero, "score": score})
            self._choose_best(whole, score)
            self._retire(step)
        size, seconds = size_of(whole), time.monotonic() - began
        line = {"step": step, "bytes": size, "blocked_seconds": round(blocked, 4), "overlapped_seconds": round(seconds, 4)}
        with (self.folder.parent / RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"checkpoint {whole.name}: {mib(size)}, training waited {blocked:.2f} s, sealed {seconds:.2f} s later", flush=True)

    def _choose_best(self, whole: Path, score: float | None) -> None:
        link = self.folder / BEST
        before = _seal_of(link).get("score") if link.exists() else None
        if score is None or not self.settings.keep_best or (isinstance(before, int | float) and before >= score):
            return
        partial = self.folder / f".{BEST}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(whole.name)
        partial.replace(link)

    def _retire(self, step: int) -> None:
        """Delete what is not kept. Steps after this one are of an attempt that went on from before them, because they were damaged."""
        found, every = _newest_first(self.folder), self.settings.keep_every
        kept = [path for path in found if step_of(path) <= step][: self.settings.keep_last]
        kept += [path for path in found if every and step_of(path) <= step and step_of(path) % every == 0]
        if (best := self.folder / BEST).is_symlink():
            kept.append(self.folder / best.readlink())
        for path in found:
            if path not in kept:
                shutil.rmtree(path)


def _begin(folder: Path, step: int) -> None:
    """An empty folder to write the checkpoint of `step` into; leavings of an attempt that was killed are removed."""
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left)
    (folder / f".partial-step-{step:06d}").mkdir()


@contextmanager
def _told(folder: Path, step: int) -> Iterator[None]:
    """Turns whatever is raised where a disk takes no more into one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or is_refused_by_disk(error):
            why = " ".join(str(error).split())
            raise StageError(
                f"the checkpoint of step {step} could not be written ({why}); {room(folder)} are free in {folder}; the earlier ones are whole"
            ) from error
        raise


def most_kept(settings: Checkpoints, every: int, steps: int) -> int:
    """Most checkpoints that a stage has on the disk at once: those that it keeps, and a new one before the oldest goes."""
    taken = sorted({*range(every, steps + 1, every), steps})
    older, recent = taken[: -settings.keep_last - 1], taken[-settings.keep_last - 1 :]
    for_good = [step for step in older if settings.keep_every and step % settings.keep_every == 0]
    return len(recent) + len(for_good) + (settings.keep_best and len(older) > len(for_good))


def seal(partial: Path, says: dict[str, Any] | None = None) -> Path:
    """Make a checkpoint whole and visible, in this order: contents, list of contents, name."""
    files = {path.relative_to(partial).as_posix(): path for path in sorted(partial.rglob("*")) if path.is_file()}
    entries = {name: {"size": path.stat().st_size, "sha256": digest(path)} for name, path in files.items()}
    for path in files.values():
        sync(path)
    for inner in {path.parent for path in files.values()}:
        sync(inner)
    write_json(partial / SEAL, {**(says or {}), "files": entries})
    whole = partial.with_name(partial.name.removeprefix(".partial-"))
    if whole.exists():  # an unsealed or damaged one of the same step, done again after a fall back
        shutil.rmtree(whole)
    partial.replace(whole)
    sync(whole.parent)
    return whole


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose seal verifies; a damaged newer one is passed over with a printed note."""
    for checkpoint in _newest_first(folder):
        fault = damage(checkpoint)
        if fault is None:
            return checkpoint
        print(f"checkpoint {checkpoint.name} is passed over: {fault}", flush=True)
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is as it was when sealed."""
    entries = _seal_of(checkpoint).get("files")
    if not isinstance(entries, dict) or not entries:
        return f"its {SEAL} marker is missing or unreadable"
    for name, entry in entries.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return f"{name} is missing or has another size"
        if digest(path) != entry["sha256"]:
            return f"{name} has another checksum"
    return None


def check_ground(checkpoint: Path, here: Ground) -> str | None:
    """A note if a checkpoint comes from another number of processes and goes on nearly exactly.

    Raises StageError where it cannot: DeepSpeed's files are the shards of one number of processes under one ZeRO stage.
    """
    found = _seal_of(checkpoint)
    there = Ground(int(found.get("processes", 1)), int(found.get("zero", 0)))
    if there == here:
        return None
    if there.zero or here.zero:
        raise StageError(
            f"{checkpoint.name} was written by {_on(there)}, and this is {_on(here)}: the optimizer's shards fit only there. Go on with "
            f"hardware.processes={there.processes} (or as many gpus) and hardware.zero={there.zero}, or delete {checkpoint.parent} to start anew"
        )
    return f"{checkpoint.name} was written by {_on(there)}, and this is {_on(here)}: the same rows in the same steps, but sums in another order, so the last bits differ"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))


def size_of(checkpoint: Path) -> int:
    """Bytes of a checkpoint, as its seal lists them."""
    return sum(int(entry["size"]) for entry in _seal_of(checkpoint).get("files", {}).values())


def _seal_of(checkpoint: Path) -> dict[str, Any]:
    """What a seal says; empty if it is missing or unreadable."""
    try:
        found = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def _on(ground: Ground) -> str:
    return (
        f"{ground.processes} process{'es' if ground.processes > 1 else ''} {f'under ZeRO-{ground.zero}' if ground.zero else 'without ZeRO'}"
    )
