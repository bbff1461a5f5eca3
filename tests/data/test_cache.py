"""Made once for one key, whatever runs beside it and whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.cache import made_once
from data.tokenfile import Written, write_tokens


def make(folder: Path) -> dict[str, Any]:
    return write_tokens(folder, [Written(np.array([1, 2, 3]))], vocabulary=10)


def test_one_key_is_made_once_and_another_one_apart(tmp_path: Path) -> None:
    first, known = made_once(tmp_path, {"a": 1}, make)
    assert not known
    assert made_once(tmp_path, {"a": 1}, lambda _: pytest.fail("made twice")) == (first, True)
    assert made_once(tmp_path, {"a": 2}, make)[0] != first


def test_a_maker_that_fails_leaves_nothing_that_looks_made(tmp_path: Path) -> None:
    def fails(folder: Path) -> dict[str, Any]:
        make(folder)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError):
        made_once(tmp_path, {}, fails)
    assert not made_once(tmp_path, {}, make)[1]


def test_what_is_damaged_is_made_anew(tmp_path: Path) -> None:
    folder, _ = made_once(tmp_path, {}, make)
    (folder / "ids.bin").write_bytes(b"\x00" * 6)
    assert made_once(tmp_path, {}, make) == (folder, False)
    assert made_once(tmp_path, {}, make) == (folder, True)


def test_several_at_once_make_it_once(tmp_path: Path) -> None:
    made = []

    def slowly(folder: Path) -> dict[str, Any]:
        made.append(1)
        time.sleep(0.05)
        return make(folder)

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: made_once(tmp_path, {}, slowly)[0], range(8)))
    assert len(made) == 1
    assert len(set(folders)) == 1


def test_a_killed_maker_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from data.cache import made_once\n"
        "def make(folder):\n"
        "    (folder / 'ids.bin').write_bytes(b'half'); print('half', flush=True); time.sleep(60)\n"
        f"made_once(pathlib.Path({str(tmp_path)!r}), {{}}, make)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    folder, known = made_once(tmp_path, {}, make)
    assert not known
    assert (folder / "ids.bin").stat().st_size == 6
