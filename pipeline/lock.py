"""One process at a time works on a run.

The lock is an `flock` on an open file whose descriptor the stage process inherits: it ends with the last process that could write,
so an orchestrator killed with -9 does not free it while its stage lives on.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import HeldError
from pipeline.store import LOCK, now

ASKS = 5
"""Times that a lock is asked for: whoever only looks (`is_held`) has it for an instant."""


@dataclass
class Lock:
    """A lock that is held; `descriptor` goes to every child."""

    descriptor: int
    holder: dict[str, Any]

    def tell(self, **values: Any) -> None:
        """Says in the lock's file who holds it and what runs, for the message that another process prints."""
        self.holder.update(values)
        text = json.dumps(self.holder).encode()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text, 0)


@contextmanager
def held(file: Path) -> Iterator[Lock]:
    """Holds the lock. Raises HeldError, naming the holder, if another process does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _taken(descriptor):
            raise HeldError(f"{file.parent} is held by {describe(file)}; wait for it, or stop it with: kill {_pid(file)}")
        lock = Lock(descriptor, {})
        lock.tell(pid=os.getpid(), host=socket.gethostname(), since=now())
        yield lock
    finally:
        # Closing frees the lock only when no child holds the same open file.
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Takes the lock, unless it is held for longer than `is_held` needs to ask."""
    for _ in range(ASKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def is_held(file: Path) -> bool:
    """Whether some process works on the run now."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(file: Path) -> dict[str, Any]:
    """Who wrote the lock's file last."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def works_on(folder: Path) -> bool:
    """Whether some process works on this stage folder now."""
    file = folder.parent / LOCK
    return is_held(file) and holder(file).get("folder") == folder.name


def held_by(file: Path) -> str | None:
    """Who works on the run now, in words; None if nobody does."""
    return f"held by {describe(file)}" if is_held(file) else None


def describe(file: Path) -> str:
    who = holder(file)
    where = f" in {who['folder']}" if "folder" in who else ""
    stage = f", which runs stage {who['stage']} as process {who['stage_pid']}{where}" if "stage" in who else ""
    return f"process {who.get('pid', 'unknown')} on {who.get('host', 'an unknown host')} since {who.get('since', 'an unknown time')}{stage}"


def _pid(file: Path) -> object:
    who = holder(file)
    alive = who.get("pid") and Path(f"/proc/{who['pid']}").exists()
    return who.get("pid") if alive else f"-- -{who['stage_pid']}" if "stage_pid" in who else "PID"
