"""Rows of a stage's sources as records, one at a time and at constant memory: format found, faults counted, what was decided told. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from data.code import CODE, load_function
from data.config import Source
from data.errors import DataError
from data.files import Fault, Row
from data.formats import Chat, MisfitError, Preference, Prompt, Record, Text, detect, mapped, normalise
from data.sources import rows_and_faults
from data.verdicts import Tally

R = TypeVar("R", Text, Chat, Preference, Prompt)


@dataclass
class Faults:
    """Faults of one source by kind: of each its first row, and how many share it."""

    first: dict[str, Fault] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        self.first.setdefault(fault.what, fault)
        self.count[fault.what] = self.count.get(fault.what, 0) + 1

    def sentences(self, rows: int) -> list[str]:
        return [f"{fault} ({self.count[what]:,} of {rows:,} rows share this fault)" for what, fault in self.first.items()]

    def __bool__(self) -> bool:
        return bool(self.first)


@dataclass
class Reading:
    """One source while it is read."""

    source: Source
    want: type[Record] | None
    formats: dict[str, str] = field(default_factory=dict)
    """Format by file, as the file's first row says."""
    why: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    faults: Faults = field(default_factory=Faults)
    tally: Tally = field(default_factory=Tally)

    def records(self, files: Sequence[Path], skip: int = 0) -> Iterator[Record]:
        """Records in file order, at most the source's `limit`; the first `skip` rows are passed over, faults in them too."""
        return islice(self._records(files, skip), self.source.limit)

    def _records(self, files: Sequence[Path], skip: int) -> Iterator[Record]:
        for item in rows_and_faults(self.source, files, skip):
            self.rows += 1
            try:
                found = [] if isinstance(item, Fault) else self._normalised(item)
            except MisfitError as misfit:
                item, found = self._fault(cast(Row, item), misfit), []
            if isinstance(item, Fault):
                self.faults.add(item)
            for record in found:
                self.tally.add(record)
                yield record

    def _normalised(self, row: Row) -> list[Record]:
        if code := CODE.match(self.source.format):
            return self._by_code(row, code[1], code[2])
        name = self.source.format if self.source.format != "auto" else self.formats.get(row.file)
        if name is None:
            name, self.why[row.file] = detected(row.value, self.source)
            self.formats[row.file] = name
        return normalise(row.value, name, self.source.columns, self.want)

    def _by_code(self, row: Row, file: str, function: str) -> list[Record]:
        """A user's own format: a function from a row to one row, or several, of a known format."""
        try:
            made = load_function(file, function)(row.value if isinstance(row.value, str) else dict(row.value))
        except DataError:
            raise
        except Exception as error:  # whatever the user's function raises is a fault of this row
            raise MisfitError(f"{function} raises {type(error).__name__}", str(error), "a row that the function can read") from error
        rows = made if isinstance(made, list) else [] if made is None else [made]
        for value in rows:
            if not isinstance(value, Mapping | str):
                raise MisfitError(f"{function} gives no row", type(value).__name__, "a dictionary, a list of them, or None to leave it out")
        return [record for value in rows for record in normalise(value, "auto", self.source.columns, self.want)]

    def _fault(self, row: Row, misfit: MisfitError) -> Fault:
        """The misfit as a fault; a row of another format than the file's first is told so."""
        expected = self.formats.get(row.file)
        try:
            own = detected(row.value, self.source)[0] if expected else expected
        except MisfitError:
            own = expected
        if own != expected:
            return Fault(row.file, row.number, "mixed formats in one file", f"a {own} row", f"{expected}, as in the file's first row")
        return Fault(row.file, row.number, misfit.what, misfit.found, misfit.wanted)

    def check(self, taken: int) -> None:
        """Raise DataError for bad rows that the source does not skip, and for a source that held nothing."""
        if self.faults and self.source.on_bad_rows == "error":
            raise DataError("; ".join(self.faults.sentences(self.rows)) + ". `on_bad_rows: skip` leaves such rows out")
        if not taken:
            raise DataError(f"{self.source.path}: no usable row" + "".join(f"; {text}" for text in self.faults.sentences(self.rows)))

    def notes(self, taken: int) -> list[str]:
        """How many records, what was detected and why, what was left out."""
        name = self.source.path
        decided = sorted({(format, self.why[file]) for file, format in self.formats.items()})
        by_code = [f"{name}: {taken:,} records; read by {self.source.format}"] if CODE.match(self.source.format) else []
        notes = by_code or [f"{name}: {taken:,} records; read as {format} ({why})" for format, why in decided]
        return (notes or [f"{name}: {taken:,} records"]) + [f"{name}: left out {text}" for text in self.faults.sentences(self.rows)]

    def warnings(self) -> list[str]:
        return [f"{self.source.path}: {verdict.text}" for verdict in self.tally.verdicts()]


def detected(value: Mapping[str, Any] | str, source: Source) -> tuple[str, str]:
    """Format of a row under the source's `columns`, and why. Raises MisfitError."""
    return detect(mapped(value, source.columns) if source.columns and isinstance(value, dict) else value)


class Stream(Generic[R]):
    """The records of several sources, one after another; what was noticed is known once they are read to the end.

    Weights are not applied: they are a matter of order, which needs the whole (`data.mixture`).
    """

    def __init__(self, sources: Sequence[Source], files: Sequence[Sequence[Path]], want: type[R]) -> None:
        self.sources, self._files = sources, files
        self._want: type[R] = want
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.counts = [0] * len(sources)
        """Records of each source."""

    def __iter__(self) -> Iterator[tuple[int, R]]:
        """Number of the source and record. Raises DataError at a source's end if rows are bad and not skipped, or if it held none."""
        for number, (source, paths) in enumerate(zip(self.sources, self._files, strict=True)):
            reading = Reading(source, self._want)
            for record in cast(Iterable[R], reading.records(paths)):
                self.counts[number] += 1
                yield number, record
            reading.check(self.counts[number])
            self.warnings += reading.warnings()
            self.notes += reading.notes(self.counts[number]) + reading.warnings()
