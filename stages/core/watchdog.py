"""A watchdog over a stage: a process that gives no sign of life for too long writes the stacks of all its threads to a file and ends.

    with watching(job):
        ...
        beat()  # after a step, a forward pass, a token: wherever work goes on

`faulthandler` keeps the time in a thread of C, so it also works where Python itself is stuck in a collective. When one process hangs, the others
wait for it in the same step: each writes its own stacks, and the launcher or the orchestrator takes down what is left.
"""

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.contract import Job

OFTEN = 0.1
"""A beat within this share of the time limit after the last one is not worth a new thread."""


class Watchdog:
    """Between `open` and `close` a beat must come at least every `seconds`; one that is None never bites."""

    def __init__(self, seconds: float | None, file: Path) -> None:
        self._seconds, self._path = seconds, file
        self._file: IO[str] | None = None
        self._last = 0.0

    def open(self) -> None:
        if self._seconds is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        self.beat()

    def beat(self) -> None:
        """Say that the process is alive."""
        now = time.monotonic()
        if self._seconds is None or self._file is None or now - self._last < OFTEN * self._seconds:
            return
        self._last = now
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)

    def close(self) -> None:
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file, self._last = None, 0.0
        self._path.unlink(missing_ok=True)


def stacks(job: Job, rank: int) -> Path:
    """Where a process that hangs writes the stacks of its threads."""
    return job.folder / "attempts" / str(job.attempt) / f"stacks-{rank}.txt"


_watching: list[Watchdog] = []
"""The one that watches: `faulthandler` has one clock a process."""


def beat() -> None:
    """Say that the process is alive; of no effect where nobody watches."""
    if _watching:
        _watching[0].beat()


@contextmanager
def watching(job: Job, rank: int = 0) -> Iterator[None]:
    """A watchdog over this process, with the time limit of its hardware."""
    dog = Watchdog(job.hardware.step_timeout, stacks(job, rank))
    dog.open()
    _watching[:] = [dog]
    try:
        yield
    finally:
        _watching.clear()
        dog.close()
