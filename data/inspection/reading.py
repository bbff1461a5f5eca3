"""A stage's sources as labelled records in parts: what is trained on, what is held out, what else is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from data.config import Source
from data.formats import Chat, Preference, Prompt, Record, Text
from data.inspection.report import Group, Task, Wanted
from data.records import content_key, read_records, split
from data.sources import HUB

RECORDS: dict[str | None, type[Record] | None] = {None: None, "text": Text, "chat": Chat, "preference": Preference, "prompt": Prompt}
VALIDATION = "validation"
"""Name that every stage gives to the field of its held-out data."""
HUB_ROWS = 1_000
"""Records of a source on the Hub that are looked at: they come over the network."""


@dataclass(frozen=True)
class Entry:
    """A record and the source that it comes from."""

    record: Record
    source: int


@dataclass
class Section:
    """The records of one part."""

    name: str
    wants: Wanted | None
    sources: Sequence[Source]
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        return [entry.record for entry in self.entries]


def read_sections(task: Task) -> list[Section]:
    """Every part of a stage's data; where the stage holds out a share, the training records are split as it will. Raises DataError."""
    sections = [_section(group, task.rows) for group in task.groups]
    if task.held_out is None or len(sections) != 1:
        return sections
    whole = sections[0]
    train, held = split(whole.entries, task.held_out, key=lambda entry: content_key(entry.record))
    return [
        Section(whole.name, whole.wants, whole.sources, train, whole.notes),
        Section(VALIDATION, whole.wants, whole.sources, held, [f"{len(held):,} records are held out, chosen by their content"]),
    ]


def _section(group: Group, rows: int) -> Section:
    entries: list[Entry] = []
    notes: list[str] = []
    for number, (source, files) in enumerate(zip(group.sources, group.files, strict=True)):
        bound = min(rows, HUB_ROWS) if source.path.startswith(HUB) else rows
        limited = source.model_copy(update={"weight": 1.0, "limit": min(source.limit or bound, bound)})
        # A record of any kind will do where the stage does not say which.
        found = read_records([limited], [files], cast(Any, RECORDS[group.wants]))
        entries += [Entry(record, number) for record in found.records]
        notes += [note for note in found.notes if note not in found.warnings]
        if len(found.records) == bound and bound != source.limit:
            notes.append(f"{source.path}: looked at the first {bound:,} records")
    return Section(group.field, group.wants, group.sources, entries, notes)
