"""Files that are there after a crash: whole or not at all. Torch-free."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says where a disk is full, a quota used up, a file too large, or nothing may be written."""
WRITERS = ("PytorchStreamWriter", "inline_container")
"""Parts of torch that name themselves, and not the disk, when it takes no more."""


def write_json(path: Path, value: Any) -> None:
    """Write a value as a whole file or not at all. Raises ValueError for a number that is not finite."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing: under a temporary name, to the disk, then renamed. Line ends stay as they are."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of several files' own, by name: the same wherever they lie."""
    lines = "".join(f"{own} {name}\n" for name, own in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def is_refused_by_disk(error: BaseException) -> bool:
    """Whether an error says, in the words of Python, of safetensors or of torch, that a disk takes no more."""
    if isinstance(error, OSError):
        return error.errno in REFUSALS
    said = str(error)
    return any(os.strerror(number) in said for number in REFUSALS) or any(sign in said for sign in WRITERS)


def room(path: Path) -> str:
    """What is free where `path` lies, in words."""
    return mib(shutil.disk_usage(path).free)


def mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
