"""Stage processes forked from the test: real processes, groups, logs and exit codes, without the seconds of starting Python."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stages.__main__ import main


class Forked:
    """What `watch` needs of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.code is None:
            pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked", timeout or 0)
            else:
                time.sleep(0.003)
        return self.code


def fork(argv: Sequence[str], *, folder: Path, log: Path, environment: dict[str, str], descriptor: int) -> Forked:
    """As `pipeline.process.spawn`; the last word of the command is the job."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        code = main([argv[-1]])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
