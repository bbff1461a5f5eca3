"""What a run would stumble over in a source, found without starting it. Torch-free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.extent import Extent
from data.formats import Record
from data.mixture import check_weight
from data.reading import Reading
from data.records import content_key
from data.sources import HUB

CHECKED_BYTES = 64 * 2**20
CHECKED_ROWS = 1_000


@dataclass(frozen=True)
class Finding:
    """One thing that a check noticed. A problem stops a run; a warning is counted, a note is not."""

    problem: bool
    text: str
    warning: bool = False


def check_source(source: Source, files: Sequence[Path], want: type[Record] | None = None) -> tuple[list[Finding], Extent]:
    """What was noticed, and how much the source holds: all rows of local files below 64 MB together, else the first 1,000 of each file."""
    extent = Extent()
    if source.path.startswith(HUB):
        extent.is_complete = False
        return [Finding(False, f"{source.path}: on the Hub; read when the stage starts")], extent
    size = sum(path.stat().st_size for path in files if path.exists())
    extent.is_complete = size <= CHECKED_BYTES
    return list(_findings(source, files, want, extent)), extent


def _findings(source: Source, files: Sequence[Path], want: type[Record] | None, extent: Extent) -> Iterator[Finding]:
    reading, taken = Reading(source, want), 0
    try:
        for path in files:
            for record in islice(reading.records([path]), None if extent.is_complete else CHECKED_ROWS):
                extent.add(record, None if extent.differs else content_key(record))
                taken += 1
        if extent.is_complete:
            check_weight(source.path, taken, source.weight)
    except DataError as error:
        extent.is_complete = False
        yield Finding(True, str(error))
        return
    problems = [] if source.on_bad_rows == "skip" else reading.faults.sentences(reading.rows)
    if problems or not taken:
        extent.is_complete = False
        yield from (Finding(True, text) for text in problems or [f"{source.path}: no usable row"])
        return
    yield from (Finding(False, text) for text in reading.notes(taken))
    for verdict in reading.verdicts():
        yield Finding(verdict.level == "error", f"{source.path}: {verdict.text}", verdict.level == "warning")
