"""Records of a stage's sources, ready to use: read, checked, counted, weighted, and split into training and held-out. Torch-free."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Generic, TypeVar, cast

from data.config import Source
from data.errors import DataError
from data.files import Fault, Row
from data.formats import Chat, MisfitError, Preference, Prompt, Record, Text, detect, normalise
from data.sources import HUB, rows_and_faults
from data.verdicts import Tally, tallied

R = TypeVar("R", Text, Chat, Preference, Prompt)
S = TypeVar("S")

CHECKED_BYTES = 64 * 2**20
CHECKED_ROWS = 1_000


@dataclass
class Records(Generic[R]):
    """What the sources hold, in source order."""

    records: list[R]
    notes: list[str]
    """What was detected, left out or noticed, a sentence each."""
    counts: dict[str, int]
    """Records by source path, weights applied."""
    warnings: list[str] = field(default_factory=list)
    """Those of the notes that something looks wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check noticed. A problem stops a run; a warning is counted, a note is not."""

    problem: bool
    text: str
    warning: bool = False


@dataclass
class _Reading:
    """One source while it is read."""

    source: Source
    want: type[Record] | None
    formats: dict[str, str] = field(default_factory=dict)
    """Format by file, as the recipe or the file's first row says."""
    why: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    faults: list[Fault] = field(default_factory=list)

    def records(self, files: Sequence[Path]) -> Iterator[Record]:
        for item in rows_and_faults(self.source, files):
            self.rows += 1
            if isinstance(item, Fault):
                self.faults.append(item)
                continue
            try:
                yield from self._normalised(item)
            except MisfitError as misfit:
                self.faults.append(self._fault(item, misfit))

    def _normalised(self, row: Row) -> list[Record]:
        name = self.source.format if self.source.format != "auto" else self.formats.get(row.file)
        if name is None:
            name, self.why[row.file] = _detected(row, self.source)
            self.formats[row.file] = name
        return normalise(row.value, name, self.source.columns, self.want)

    def _fault(self, row: Row, misfit: MisfitError) -> Fault:
        """The misfit as a fault; a row of another format than the file's first is told so."""
        expected = self.formats.get(row.file)
        try:
            own = _detected(row, self.source)[0] if expected else expected
        except MisfitError:
            own = expected
        if own != expected:
            return Fault(row.file, row.number, "mixed formats in one file", f"a {own} row", f"{expected}, as in the file's first row")
        return Fault(row.file, row.number, misfit.what, misfit.found, misfit.wanted)

    def notes(self, taken: int) -> list[str]:
        name = self.source.path
        decided = sorted({(format, self.why[file]) for file, format in self.formats.items()})
        notes = [f"{name}: {taken:,} records; read as {format} ({why})" for format, why in decided] or [f"{name}: {taken:,} records"]
        return notes + [f"{name}: left out {text}" for text in _grouped(self.faults, self.rows)]


def _detected(row: Row, source: Source) -> tuple[str, str]:
    value = row.value
    if source.columns and isinstance(value, dict):
        from data.formats import _mapped

        value = _mapped(value, source.columns)
    return detect(value)


def _grouped(faults: Sequence[Fault], rows: int) -> list[str]:
    """A sentence for each kind of fault: its first row, and how many share it."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.what, []).append(fault)
    return [f"{group[0]} ({len(group):,} of {rows:,} rows share this fault)" for group in groups.values()]


def read_records(sources: Sequence[Source], files: Sequence[Sequence[Path]], want: type[R]) -> Records[R]:
    """Everything that the sources hold, as records of one kind.

    `files` holds the resolved files of each source (`data.sources.resolve`), none for `hub:`.
    Applies `columns`, `limit`, `on_bad_rows` and `weight` (3 repeats each row three times, 0.5 takes half, the same half each time).
    Raises DataError if a row is bad and the source does not skip bad rows, or if a source holds nothing.
    """
    whole: Records[R] = Records([], [], {})
    for source, paths in zip(sources, files, strict=True):
        reading = _Reading(source, want)
        found = cast(list[R], list(islice(reading.records(paths), source.limit)))
        if reading.faults and source.on_bad_rows == "error":
            raise DataError("; ".join(_grouped(reading.faults, reading.rows)) + ". `on_bad_rows: skip` leaves such rows out")
        if not found:
            raise DataError(f"{source.path}: no usable row" + "".join(f"; {text}" for text in _grouped(reading.faults, reading.rows)))
        weighted = repeated(found, source.weight)
        warnings = [f"{source.path}: {verdict.text}" for verdict in tallied(found).verdicts()]
        whole.records += weighted
        whole.notes += reading.notes(len(found)) + warnings
        whole.warnings += warnings
        whole.counts[source.path] = whole.counts.get(source.path, 0) + len(weighted)
    return whole


def repeated(records: list[S], weight: float) -> list[S]:
    """Each record `weight` times an epoch; the fraction is a fixed draw of records, kept in order."""
    times, part = int(weight), weight - int(weight)
    drawn = sorted(Random(len(records)).sample(range(len(records)), round(part * len(records))))
    return records * times + [records[index] for index in drawn]


def content_key(record: Record) -> str:
    """What makes two records the same to a split: normalised text; for pairs and prompts, that of the prompt."""
    if isinstance(record, Text):
        return plain(record.text)
    messages = record.prompt if isinstance(record, Preference) else record.messages
    return "\n".join(f"{message['role']}: {plain(str(message['content']))}" for message in messages)


def plain(text: str) -> str:
    """Text without what near-identical rows differ in: case, accents' encoding, punctuation and white space."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def split(records: Sequence[S], share: float, key: Callable[[S], str] | None = None) -> tuple[list[S], list[S]]:
    """Training and held-out records, both in order. Records with one key are never on both sides.

    A record's side depends on its key alone, so that it stays there when data are added. If none falls below `share`, the one
    key that comes nearest is held out. Raises DataError if all records share one key.
    """
    name = key or cast(Callable[[S], str], content_key)
    places = [int.from_bytes(hashlib.sha256(name(record).encode()).digest()[:8]) / 2**64 for record in records]
    if len(set(places)) < 2:
        raise DataError(f"{len(records)} records with one and the same content cannot be split into training and held-out ones")
    lowest = min(places)
    bound = min(max(share, lowest * (1 + 1e-12)), max(places))
    held = [place < bound or place == lowest for place in places]
    return [r for r, out in zip(records, held, strict=True) if not out], [r for r, out in zip(records, held, strict=True) if out]


def shared(train: Sequence[S], held_out: Sequence[S], key: Callable[[S], str] | None = None) -> int:
    """Held-out records whose content is also trained on: what they measure is memory."""
    name = key or cast(Callable[[S], str], content_key)
    known = {name(record) for record in train}
    return sum(name(record) in known for record in held_out)


def check_sources(sources: Sequence[Source], files: Sequence[Sequence[Path]], want: type[Record] | None = None) -> list[Finding]:
    """What a run would stumble over, without raising: all rows of local files below 64 MB together, else the first 1,000 of each file."""
    size = sum(path.stat().st_size for paths in files for path in paths if path.exists())
    findings: list[Finding] = []
    for source, paths in zip(sources, files, strict=True):
        if source.path.startswith(HUB):
            findings.append(Finding(False, f"{source.path}: on the Hub; read when the stage starts"))
            continue
        findings += _checked(source, paths, want, None if size <= CHECKED_BYTES else CHECKED_ROWS)
    return findings


def _checked(source: Source, paths: Sequence[Path], want: type[Record] | None, rows: int | None) -> list[Finding]:
    reading, tally = _Reading(source, want), Tally()
    try:
        for path in paths:
            bound = min((n for n in (rows, source.limit) if n is not None), default=None)
            for record in islice(reading.records([path]), bound):
                tally.add(record)
    except DataError as error:
        return [Finding(True, str(error))]
    problems = [] if source.on_bad_rows == "skip" else _grouped(reading.faults, reading.rows)
    if problems:
        return [Finding(True, text) for text in problems]
    if not tally.records:
        return [Finding(True, f"{source.path}: no usable row")]
    found = [
        Finding(verdict.level == "error", f"{source.path}: {verdict.text}", verdict.level == "warning") for verdict in tally.verdicts()
    ]
    return [Finding(False, text) for text in reading.notes(tally.records)] + found
