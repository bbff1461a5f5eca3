"""Things made once for one key, by whichever process comes first; the others wait. A key is what the thing depends on, by content, never by name."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.tokenfile import ABOUT, is_whole


def made_once(root: Path, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[Path, bool]:
    """The folder that `make` filled for this key, and whether it was there already.

    `make` fills the folder that it is given and returns what `about.json` shall say. The folder appears under its name whole, by a rename; one with a
    damaged file is made anew. Safe under several processes and threads, and under any of them being killed.
    """
    text = json.dumps(key, sort_keys=True, ensure_ascii=False, allow_nan=False)
    folder = root / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    root.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if is_whole(folder):
            return folder, True
        partial = folder.with_suffix(".partial")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir()
        about = {**make(partial), "key": key}
        with (partial / ABOUT).open("w", encoding="utf-8") as file:
            json.dump(about, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder)
    return folder, False


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Held by one process at a time, and let go when it dies."""
    with file.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
