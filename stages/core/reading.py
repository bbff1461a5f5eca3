"""A stage's sources as records: read, and split into what is learned and what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from data.config import Source
from data.formats import Chat, Preference, Prompt, Text
from data.records import Records, read_records, split
from stages.contract import Job

R = TypeVar("R", Text, Chat, Preference, Prompt)
TOKENS = "tokens"
"""Folder of the run directory in which tokenised data lie, shared by its stages."""


def files_of(job: Job, field: str, sources: Sequence[Source]) -> list[list[Path]]:
    """Resolved files of each source in one field of the settings; none for the Hub."""
    return [job.files.get(f"{field}.{index}", []) for index in range(len(sources))]


@dataclass(frozen=True)
class Parts(Generic[R]):
    """Records to learn from, records to measure on, and what was noticed."""

    train: list[R]
    held_out: list[R]
    notes: list[str]


def read(job: Job, field: str, sources: Sequence[Source], want: type[R]) -> tuple[list[R], list[str]]:
    """All records of the sources in one field of the settings, and notes. Raises DataError."""
    found: Records[R] = read_records(sources, files_of(job, field, sources), want)
    return found.records, found.notes


def read_parts(job: Job, data: Sequence[Source], validation: Sequence[Source], share: float, want: type[R]) -> Parts[R]:
    """Training records from `data`; held-out ones from `validation`, or else a `share` of `data` by content. Raises DataError."""
    records: list[R]
    notes: list[str]
    records, notes = read(job, "data", data, want)
    if validation:
        held: list[R]
        more: list[str]
        held, more = read(job, "validation", validation, want)
        return Parts(records, held, [*notes, *(f"held out: {note}" for note in more)])
    train, kept = split(records, share)
    return Parts(train, kept, [*notes, f"{len(kept):,} of {len(records):,} records are held out, chosen by their content"])
