"""Sealed checkpoints: written under another name, synced, sealed with every file's size and SHA-256, then renamed.

A folder named `step-...` is therefore whole when it appears, and `latest` trusts only the seal: a kill at any moment, a truncated file or a
flipped bit leaves the one before. With several processes every one writes its files into the folder of `begin`; after a barrier one calls `seal`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from stages.contract import StageError

SEAL = "COMPLETE"


def save(folder: Path, step: int, write: Callable[[Path], None], keep_last: int) -> Path:
    """Write one checkpoint through `write(partial folder)`, seal it, then delete all but the newest `keep_last`.

    Raises:
        StageError: the disk is full; the earlier checkpoints are untouched.
    """
    partial = begin(folder, step)
    try:
        write(partial)
        return seal(partial, keep_last)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise unwritten(folder, step, error) from error


def unwritten(folder: Path, step: int, error: Exception) -> StageError:
    """The sentence for a checkpoint that the disk did not take."""
    free = shutil.disk_usage(folder).free >> 20
    return StageError(f"the checkpoint of step {step} could not be written ({error}); {free:,} MiB are free in {folder}")


def begin(folder: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of `step` into; leavings of an attempt that was killed are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left)
    partial = folder / f".partial-step-{step:06d}"
    partial.mkdir()
    return partial


def seal(partial: Path, keep_last: int) -> Path:
    """Make the checkpoint whole and visible, in this order: contents, list of contents, name. Older ones go last."""
    files = {str(path.relative_to(partial)): path for path in sorted(partial.rglob("*")) if path.is_file()}
    entries = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    for path in files.values():
        _sync(path)
    (partial / SEAL).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    _sync(partial / SEAL)
    _sync(partial)
    whole = partial.with_name(partial.name.removeprefix(".partial-"))
    if whole.exists():  # an unsealed or damaged one of the same step, done again after a fall back
        shutil.rmtree(whole)
    partial.replace(whole)
    _sync(whole.parent)
    for old in _newest_first(whole.parent)[keep_last:]:
        shutil.rmtree(old)
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
    try:
        entries = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return f"its {SEAL} marker is missing or unreadable"
    for name, entry in entries.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return f"{name} is missing or has another size"
        if sha256(path) != entry["sha256"]:
            return f"{name} has another checksum"
    return None


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
