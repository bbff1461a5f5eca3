"""A limit on the processor time of code that others wrote. Torch-free."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _OverError(BaseException):
    """Not an Exception, so that no code in between takes it for one of its own."""


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Raises `error` once the block has used so many seconds of processor time; a busy machine does not count.

    A signal does it, which Python hears between two of its own instructions, and only in the main thread; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise _OverError

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except _OverError:
        raise error from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
