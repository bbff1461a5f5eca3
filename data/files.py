"""Rows of one local file, one at a time: JSON, JSON Lines, CSV, Parquet, Arrow and plain text, bare or in gzip or zstd.

A reader yields a `Row` for each row and a `Fault` for each row that cannot be read; only a file that cannot be read on raises.
Torch-free; pyarrow is imported only for files that need it.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from data.errors import DataError
from data.json_array import LARGEST, JsonText

COMPRESSIONS = (".gz", ".zst")
PLAIN_TEXT = (".txt", ".text", ".md")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", *PLAIN_TEXT)
DOCUMENT_CHARACTERS = 4_000
"""Plain text is cut at the first blank line after this many characters: about 1,000 tokens a document."""

_IMAGE = "write down what it shows, or leave it out"
_NAME = "give its name that ending"
_BEGINNINGS = {
    b"\xff\xfe": ("UTF-16", "save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
    b"\x89PNG": ("a PNG image", _IMAGE),
    b"\xff\xd8\xff": ("a JPEG image", _IMAGE),
    b"GIF8": ("a GIF image", _IMAGE),
    b"%PDF-": ("a PDF", "take its text out first"),
    b"PK\x03\x04": ("a zip archive or an office document", "unpack it, or save it as text"),
    b"\x1f\x8b": ("gzip", f"{_NAME}, .gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", f"{_NAME}, .zst"),
    b"PAR1": ("Parquet", f"{_NAME}, .parquet"),
    b"ARROW1": ("Arrow", f"{_NAME}, .arrow"),
}
"""First bytes of files that are no UTF-8 text, what they are, and what to do."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape of a surrogate: of a whole pair, as a rule."""
_LINE_END = re.compile(r"\r\n?|\n")
_TITLE = re.compile(r" ?= [^=].* = ?$")
"""A first-level heading as in WikiText; it opens a document."""


@dataclass(frozen=True)
class Row:
    """One row as the file holds it."""

    file: str
    number: int
    """1-based: the line in JSON Lines, CSV and plain text; the element in a JSON array; the row in Parquet and Arrow."""
    value: dict[str, Any] | str


@dataclass(frozen=True)
class Fault:
    """One row that cannot be used, and why."""

    file: str
    number: int
    what: str
    """The same words for every row with the same fault."""
    found: str
    wanted: str

    def __str__(self) -> str:
        found = f": found {self.found}" if self.found else ""
        return f"{self.file}, row {self.number}: {self.what}{found}; wanted {self.wanted}"


def kind(path: Path) -> str | None:
    """Suffix that says how the file is read, without compression; None if the project cannot read such a file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def unreadable(path: Path) -> str:
    """Why a file of no known kind cannot be read."""
    return f"{path}: cannot tell how to read a '{path.suffix}' file; wanted one of {', '.join(SUFFIXES)}, or these with .gz or .zst"


def read_file(path: Path) -> Iterator[Row | Fault]:
    """Rows and faults of one file, in order. Raises DataError if the file is empty, cut short, or of an unknown kind."""
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    suffix = kind(path)
    if suffix is None:
        raise DataError(unreadable(path))
    reader = _text if suffix in PLAIN_TEXT else readers.get(suffix, _json_lines)
    last = 0
    try:
        for item in reader(path):
            last = item.number
            yield item
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the compressed file is damaged or cut short after row {last} ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read after row {last}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}, row {last + 1}: nested too deeply; wanted an object with named columns") from error
    if not last:
        raise DataError(f"{path}: the file is empty; wanted at least one row")


def _open(path: Path) -> BinaryIO:
    """The file's bytes, unpacked. Raises DataError if they begin as no text does."""
    stream = _unpacked(path)
    head = stream.peek(8)
    for begin, (what, remedy) in _BEGINNINGS.items():
        if head.startswith(begin):
            stream.close()
            raise DataError(f"{path}: found {what} where text is expected; {remedy}")
    return cast(BinaryIO, stream)


def _unpacked(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".zst":
        import io

        import pyarrow  # type: ignore[import-untyped]

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream)
    return path.open("rb")


def _decoded(path: Path) -> Iterator[tuple[int, str | Fault]]:
    """Lines as UTF-8 text, line ends kept; a byte-order mark is dropped."""
    with closing(_open(path)) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, _encoding_fault(path, number, error, f" at column {error.start + 1}")


def _encoding_fault(path: Path, number: int, error: UnicodeDecodeError, where: str = "") -> Fault:
    guess = f"byte 0x{error.object[error.start]:02x}{where} (Latin-1 or Windows-1252?)"
    return Fault(str(path), number, "not UTF-8", guess, "text saved as UTF-8")


def _json_lines(path: Path) -> Iterator[Row | Fault]:
    for number, line in _decoded(path):
        if isinstance(line, Fault):
            yield line
        elif line.strip():
            yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: str) -> Row | Fault:
    try:
        value = json.loads(line.rstrip())
    except RecursionError:
        return Fault(str(path), number, "nested too deeply", _shown(line), "an object with named columns")
    except json.JSONDecodeError as error:
        return Fault(str(path), number, "not valid JSON", f"{_shown(line)} ({error.msg} at column {error.colno})", "one JSON object a line")
    return _object(path, number, value, _HALF.search(line) is not None)


def _object(path: Path, number: int, value: object, suspect: bool = False) -> Row | Fault:
    if suspect and (half := _half(value)) is not None:
        return Fault(str(path), number, "half of a surrogate pair", repr(half), "whole characters")
    if isinstance(value, dict | str):
        return Row(str(path), number, value)
    list_of_rows = isinstance(value, list) and any(isinstance(each, dict) for each in value)
    wanted = "one object a line; a file that is one list of rows is named .json" if list_of_rows else "an object with named columns"
    return Fault(str(path), number, "not an object", f"{type(value).__name__} {_shown(value)}", wanted)


def _half(value: object) -> str | None:
    """The first half of a surrogate pair in a value, which cannot be written as UTF-8 nor become tokens."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return str(error.object)[error.start]
    return None


def _json(path: Path) -> Iterator[Row | Fault]:
    """A JSON array of rows, of any size; an object that holds one such array; or JSON Lines under a .json name."""
    number = 0
    try:
        with closing(_open(path)) as file:
            text = JsonText(file, str(path))
            if text.first() == "[":
                for number, (value, written) in enumerate(text.elements(), start=1):
                    yield _object(path, number, value, _HALF.search(written) is not None)
                return
        yield from _json_lines(path) if _is_lines(path) else _object_or_lines(path)
    except UnicodeDecodeError as error:
        raise DataError(str(_encoding_fault(path, number + 1, error))) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, row {number + 1}: not valid JSON: found {_shown(error.doc)} ({error.msg}); wanted one JSON object"
        ) from error


def _is_lines(path: Path) -> bool:
    """Whether the first two lines that are not blank are whole values; they are not read beyond what a value may have."""
    with closing(_open(path)) as file:
        lines = (line for line in iter(lambda: file.readline(LARGEST), b"") if line.strip())
        try:
            return all(json.loads(line) is not None for line in (next(lines), next(lines)))
        except (StopIteration, ValueError):
            return False


def _object_or_lines(path: Path) -> Iterator[Row | Fault]:
    with closing(_open(path)) as file:
        text = JsonText(file, str(path)).whole()
    try:
        whole = json.loads(text)
    except ValueError:
        # Not `splitlines`, which also cuts at separators that a string may hold.
        yield from (_parsed(path, number, line) for number, line in enumerate(_LINE_END.split(text), start=1) if line.strip())
        return
    arrays = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
    rows = arrays[0] if len(arrays) == 1 and len(whole) <= 3 and all(isinstance(row, dict) for row in arrays[0]) else [whole]
    # An object that itself looks like a row (a list of turns) is a row, not a container.
    rows = [whole] if isinstance(whole, dict) and whole.keys() & {"messages", "conversations", "conversation"} else rows
    suspect = _HALF.search(text) is not None
    yield from (_object(path, number, value, suspect) for number, value in enumerate(rows, start=1))


def _csv(path: Path) -> Iterator[Row | Fault]:
    csv.field_size_limit(2**31 - 1)
    faults: list[Fault] = []
    # Not strict, a quotation mark that is never closed takes all that follows into one field without a word.
    reader = csv.DictReader(_readable(path, faults), delimiter="\t" if kind(path) == ".tsv" else ",", strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{path}, row 1: the header names column '{twice}' twice; wanted a name of its own for each")
        for values in reader:
            yield from faults
            faults.clear()
            yield _fields(path, reader.line_num, values, len(names))
    except csv.Error as error:
        raise DataError(
            f"{path}, row {reader.line_num + 1}: not valid CSV: found {error}; wanted fields with quotation marks closed and doubled within, "
            "and line ends of Unix or Windows"
        ) from error
    yield from faults


def _fields(path: Path, number: int, values: dict[Any, Any], wanted: int) -> Row | Fault:
    if None not in values and None not in values.values():
        return Row(str(path), number, values)
    found = sum(len(value) if isinstance(value, list) else value is not None for value in values.values())
    return Fault(str(path), number, "wrong number of fields", f"{found}", f"{wanted} fields, as in the header")


def _readable(path: Path, faults: list[Fault]) -> Iterator[str]:
    for _, line in _decoded(path):
        if isinstance(line, Fault):
            faults.append(line)
        else:
            yield line


def _parquet(path: Path) -> Iterator[Row | Fault]:
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        file = pyarrow.parquet.ParquetFile(path)
        yield from _batches(path, file.iter_batches(batch_size=1024))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}") from error


def _arrow(path: Path) -> Iterator[Row | Fault]:
    """Arrow files (also those of `datasets`), in the file or in the stream form."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                opened = pyarrow.ipc.open_file(source)
                batches: Iterable[Any] = (opened.get_batch(index) for index in range(opened.num_record_batches))
            except pyarrow.ArrowInvalid:
                source.seek(0)
                batches = pyarrow.ipc.open_stream(source)
            yield from _batches(path, batches)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from error


def _batches(path: Path, batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for value in batch.to_pylist():
            number += 1
            yield Row(str(path), number, value)


def _text(path: Path) -> Iterator[Row | Fault]:
    """Documents: cut at headings of the first level, and at a blank line once `DOCUMENT_CHARACTERS` are reached.

    Blank lines between documents are dropped, everything else is kept as it is.
    """
    lines: list[str] = []
    first, size = 1, 0
    for number, line in _decoded(path):
        if isinstance(line, Fault):
            yield line
            continue
        ends = size >= DOCUMENT_CHARACTERS and (not line.strip() or size >= 4 * DOCUMENT_CHARACTERS)
        if ends or _TITLE.match(line.rstrip("\r\n")):
            yield from _document(path, first, lines)
            lines, size = [], 0
        if lines or line.strip():
            first = first if lines else number
            lines.append(line)
            size += len(line)
    yield from _document(path, first, lines)


def _document(path: Path, first: int, lines: list[str]) -> Iterator[Row]:
    text = "".join(lines).rstrip()
    if text:
        yield Row(str(path), first, text)


def _shown(value: object, width: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return repr(text if len(text) <= width else text[: width - 1] + "…")
