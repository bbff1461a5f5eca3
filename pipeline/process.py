"""Starts a stage process and waits for it. The only code of the orchestrator that spawns stages or ends them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

POLL_SECONDS = 0.25


class Stop:
    """Notes SIGINT, SIGTERM and SIGHUP while it is open: the first asks the stage for a checkpoint, the second ends it at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in self.SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, where a hang-up must stop nothing
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def spawn(argv: Sequence[str], *, folder: Path, log: Path, environment: dict[str, str], descriptor: int) -> subprocess.Popen[bytes]:
    """One clean process group; everything it prints goes to the log, and it holds the run's lock for as long as it lives."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(descriptor,),
        )


def watch(child: subprocess.Popen[bytes], stop: Stop, grace_seconds: float, tick: Callable[[], None]) -> int:
    """Waits for the child, passes signals on to its whole group, and leaves no member of the group behind.

    Gives the exit code; one below zero is the signal that ended the child.
    """
    deadline: float | None = None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_SECONDS)
            tick()
            if stop.count and deadline is None:
                deadline = time.monotonic() + grace_seconds
                _signal(child.pid, signal.SIGTERM)
            if deadline is not None and (stop.count > 1 or time.monotonic() > deadline):
                _signal(child.pid, signal.SIGKILL)
    except BaseException:
        _signal(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_seconds)
        raise
    finally:
        # The leader may be dead and its workers not: the group lives on until its last member.
        _signal(child.pid, signal.SIGKILL)
        child.wait()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
