"""Rows as compressed JSON Lines: what a stage that makes data leaves."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

BUFFER = 2**20


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows into a new `.jsonl.zst` file, one by one; returns how many."""
    import pyarrow  # type: ignore[import-untyped]

    count, size = 0, 0
    waiting: list[bytes] = []
    with closing(pyarrow.CompressedOutputStream(pyarrow.OSFile(str(file), "wb"), "zstd")) as stream:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            waiting.append(line)
            count, size = count + 1, size + len(line)
            if size > BUFFER:
                stream.write(b"".join(waiting))
                waiting, size = [], 0
        stream.write(b"".join(waiting))
    return count


def written_lines(file: Path) -> Iterator[Any]:
    """The rows of a file that `write_lines` wrote."""
    import io

    import pyarrow

    with closing(io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd"))) as stream:
        for line in stream:
            yield json.loads(line)
