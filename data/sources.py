"""From what a recipe says (`Source`) to files, their digest, and their rows. Torch-free."""

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.files import COMPRESSIONS, SUFFIXES, Fault, Row, kind, read_file, unreadable

HUB = "hub:"


def resolve(source: Source, root: Path, artifact: Path | None = None) -> list[Path]:
    """Absolute files of a source, sorted by path; none for `hub:`.

    `root` is the recipe's folder; `artifact` the folder of the artifact that `source.stage` names, which then takes its place.
    Raises DataError, with the nearest name, if nothing matches.
    """
    if source.path.startswith(HUB):
        return []
    if "://" in source.path:
        raise DataError(
            f"found the address '{source.path}', wanted a file, a folder, a glob or hub:owner/name; download it, and name the file"
        )
    base = (artifact if source.stage is not None and artifact is not None else root).absolute()
    path = Path(source.path).expanduser()
    if source.stage is not None and (path.is_absolute() or ".." in path.parts):
        raise DataError(f"'{source.path}' leaves the artifact of '{source.stage}'; wanted a path within it")
    if any(sign in source.path for sign in "*?["):
        found = _glob(base, path)
    elif (base / path).is_dir():
        found = [file for file in (base / path).rglob("*") if _is_data(file)]
    else:
        found = [base / path] if (base / path).is_file() else []
        if found and kind(path) is None:
            raise DataError(unreadable(path))
    if not found:
        raise DataError(f"no data at '{source.path}'{_near(base / path)}; looked in {base}")
    return sorted(found)


def _glob(base: Path, pattern: Path) -> list[Path]:
    if pattern.is_absolute():
        base, pattern = Path(pattern.anchor), pattern.relative_to(pattern.anchor)
    return [file for file in base.glob(str(pattern)) if _is_data(file)]


def _is_data(file: Path) -> bool:
    hidden = file.name.startswith((".", "_"))
    return file.is_file() and not hidden and kind(file) is not None


def _near(path: Path) -> str:
    """What stands nearest to a path that is not there."""
    if path.is_dir():
        return f" (the folder holds no file with {', '.join(SUFFIXES)}, bare or with {' or '.join(COMPRESSIONS)})"
    if not path.parent.is_dir():
        return f" (there is no folder '{path.parent}')"
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of contents, kinds and order of files: the same wherever they lie, another when a byte or the order changes."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{content} {kind(file)}\n".encode())
    return whole.hexdigest()


def read_rows(source: Source, files: Sequence[Path]) -> Iterator[Row]:
    """Rows of a source in file order. Raises DataError, naming file and row, at the first one that cannot be read."""
    for item in rows_and_faults(source, files):
        if isinstance(item, Fault):
            raise DataError(str(item))
        yield item


def rows_and_faults(source: Source, files: Sequence[Path], skip: int = 0) -> Iterator[Row | Fault]:
    """Rows of a source in file order, with a Fault in place of each row that cannot be read; the first `skip` of both are passed over."""
    if source.path.startswith(HUB):
        from data.hub import read_hub

        return read_hub(source.path, skip)
    return islice((item for file in files for item in read_file(file)), skip, None)
