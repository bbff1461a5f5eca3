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
    """Notes signals while it is open. SIGINT, SIGTERM and SIGHUP: the first asks the stage for a checkpoint, the second ends it at once.

    SIGUSR1 and SIGUSR2, by which schedulers warn before a time limit (`sbatch --signal=B:USR1@120`), only ask.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.count = 0
        self.warned = False
        self.by = ""
        """What asked first, as people say it."""
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
        self.by = self.by or ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        if number in self.WARNINGS:
            self.warned = True
        else:
            self.count += 1

    @property
    def asked(self) -> bool:
        """Whether the run is to end after a checkpoint."""
        return self.warned or self.count > 0


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


def watch(
    child: subprocess.Popen[bytes],
    stop: Stop,
    grace_seconds: float,
    tick: Callable[[], None],
    *,
    launched: bool = False,
    request: Path | None = None,
) -> int:
    """Waits for the child, passes signals on to its whole group, and leaves no member of the group behind.

    `launched`: the child is a launcher, whose own way to stop gives its workers 30 seconds: the request then goes to them, or is written as
    the file `request` where they run on other machines too.
    Gives the exit code; one below zero is the signal that ended the child.
    """
    deadline: float | None = None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_SECONDS)
            tick()
            if stop.asked and deadline is None:
                deadline = time.monotonic() + grace_seconds
                if request is not None:
                    request.touch()
                else:
                    _ask(child.pid, launched=launched)
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


def _ask(pid: int, *, launched: bool) -> None:
    """Asks the processes of a stage for a checkpoint."""
    workers = _children(pid) if launched else []
    for worker in workers:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(worker, signal.SIGTERM)
    if not workers:
        _signal(pid, signal.SIGTERM)


def _children(pid: int) -> list[int]:
    """Processes that a process has started; none where the system does not tell."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
