"""Stopping on request: SIGTERM, Ctrl-C, and the warnings of schedulers (SIGUSR1, SIGUSR2) ask for a checkpoint at the next step boundary.

A second Ctrl-C stops at once. A second SIGTERM does not: a scheduler sends it to every process of a job, and the orchestrator passes it on.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - not an error
    """The stage stopped on request after a checkpoint; exit code 130, and the same command goes on."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields `stop()`, which is true once the process was asked to end. Outside the main thread it is never true."""
    asked = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        asked.set()
        with suppress(OSError, RuntimeError):  # a log that takes no more, or a line that the signal has interrupted
            print(f"{signal.Signals(number).name}: a checkpoint follows at the next step boundary, then the stage stops", flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
