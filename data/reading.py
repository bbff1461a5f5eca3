"""Rows of a stage's sources as records, one at a time and at constant memory: format found, faults counted, what was decided told. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from data.code import CODE, load_function
from data.columns import NEEDS, MisfitError, columns_of, detect, get, mapped
from data.config import Source
from data.errors import DataError
from data.files import Fault, Row
from data.formats import Chat, Preference, Prompt, Record, Text, normalise
from data.sources import rows_and_faults
from data.verdicts import Tally, Verdict

R = TypeVar("R", Text, Chat, Preference, Prompt)
IDS = 1_000_000
"""Ids of a source that are remembered, to tell those that come twice."""


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
    """Format by file, as the file's first row that fits says."""
    why: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    within: int = 0
    """Records of the last row that were given."""
    taken: int = 0
    faults: Faults = field(default_factory=Faults)
    tally: Tally = field(default_factory=Tally)
    ids: set[int] = field(default_factory=set)
    repeated: list[str] = field(default_factory=list)
    """Of rows whose `id` an earlier row has: the first three, and how many there are as `repeats`."""
    repeats: int = 0
    behind: tuple[int, int] = (0, 0)
    """Rows, and records of the row behind them, that are passed over because an earlier attempt had them."""

    def records(self, files: Sequence[Path]) -> Iterator[Record]:
        """Records in file order, at most the source's `limit`."""
        limit = self.source.limit
        return islice(self._records(files), None if limit is None else max(0, limit - self.taken))

    def _records(self, files: Sequence[Path]) -> Iterator[Record]:
        (skip, had), self.behind = self.behind, (0, 0)
        for item in rows_and_faults(self.source, files, skip):
            self.rows, self.within = self.rows + 1, 0
            try:
                found = [] if isinstance(item, Fault) else self._normalised(item)
            except MisfitError as misfit:
                item, found = self._fault(cast(Row, item), misfit), []
            if isinstance(item, Fault):
                self.faults.add(item)
            else:
                self._note_id(item)
            for record in found:
                self.within += 1
                if self.within > had:
                    self.taken += 1
                    self.tally.add(record)
                    yield record
            had = 0

    def _note_id(self, row: Row) -> None:
        name = row.value.get("id") if isinstance(row.value, dict) else None
        if not isinstance(name, str | int) or name == "" or len(self.ids) >= IDS:
            return
        if hash(name) in self.ids:
            self.repeats += 1
            self.repeated = [*self.repeated, f"{name!r} in row {row.number}"][:3]
        self.ids.add(hash(name))

    def state(self) -> dict[str, Any]:
        """Where reading stands, and what it has noticed so far: small, and JSON."""
        here = [self.rows - 1, self.within] if self.within else [self.rows, 0]
        return {
            "behind": list(self.behind) if any(self.behind) else here,  # restored, and nothing read since
            "taken": self.taken,
            "formats": self.formats,
            "why": self.why,
            "faults": [[asdict(fault), self.faults.count[what]] for what, fault in self.faults.first.items()],
            "tally": asdict(self.tally),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, on the same files."""
        self.behind = (state["behind"][0], state["behind"][1])
        self.rows, self.taken = state["behind"][0], state["taken"]
        self.formats, self.why, self.tally = dict(state["formats"]), dict(state["why"]), Tally(**state["tally"])
        for fault, count in state["faults"]:
            self.faults.first[fault["what"]] = Fault(**fault)
            self.faults.count[fault["what"]] = count

    def _normalised(self, row: Row) -> list[Record]:
        if code := CODE.match(self.source.format):
            return self._by_code(row, code[1], code[2])
        name = self.source.format if self.source.format != "auto" else self.formats.get(row.file)
        if name is None:
            name, why = detected(row.value, self.source)
            found = normalise(row.value, name, self.source.columns, self.want)
            self.formats[row.file], self.why[row.file] = name, why  # of the first row that fits: a faulty one decides nothing
            return found
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
        """The misfit as a fault; a row of another format than the file's first is told so, but not one that only lacks a column of that format."""
        expected = self.formats.get(row.file)
        if expected is not None and isinstance(row.value, dict) and all(get(row.value, name) is None for name in NEEDS[expected]):
            with suppress(MisfitError):
                own = detected(row.value, self.source)[0]
                if own != expected:
                    found = f"columns {columns_of(row.value)}, which are those of {own}"
                    return Fault(row.file, row.number, "mixed formats in one file", found, f"{expected}, as in the file's first rows")
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
        return [f"{self.source.path}: {verdict.text}" for verdict in self.verdicts()]

    def verdicts(self) -> list[Verdict]:
        """What looks wrong with the rows, without a tokenizer."""
        repeated = f"{self.repeats:,} of {self.rows:,} rows repeat the id of an earlier one ({', '.join(self.repeated)})"
        return [*self.tally.verdicts(), *([Verdict("warning", "repeated-ids", repeated)] if self.repeats else [])]


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
        self._number = 0
        self._reading = Reading(sources[0], want) if sources else None
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.counts = [0] * len(sources)
        """Records of each source."""

    def __iter__(self) -> Iterator[tuple[int, R]]:
        """Number of the source and record. Raises DataError at a source's end if rows are bad and not skipped, or if it held none."""
        while self._reading is not None:
            number, reading = self._number, self._reading
            for record in cast(Iterable[R], reading.records(self._files[number])):
                self.counts[number] += 1
                yield number, record
            reading.check(self.counts[number])
            self.warnings += reading.warnings()
            self.notes += reading.notes(self.counts[number]) + reading.warnings()
            self._number += 1
            self._reading = Reading(self.sources[self._number], self._want) if self._number < len(self.sources) else None

    def state(self) -> dict[str, Any]:
        """The position behind the last record that was given: small, and JSON."""
        reading = self._reading.state() if self._reading else None
        return {"source": self._number, "reading": reading, "notes": self.notes, "warnings": self.warnings, "counts": self.counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind the record at which `state` was taken; rows before it are passed over, on the Hub without counting them out."""
        self._number, self.notes, self.warnings, self.counts = (
            state["source"],
            list(state["notes"]),
            list(state["warnings"]),
            list(state["counts"]),
        )
        self._reading = Reading(self.sources[self._number], self._want) if self._number < len(self.sources) else None
        if self._reading is not None:
            self._reading.restore(state["reading"])
