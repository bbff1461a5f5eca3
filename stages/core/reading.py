"""A stage's sources: where their files are, and their records."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from data.config import Source
from data.formats import Chat, Preference, Prompt, Text
from data.records import Records, read_records
from stages.contract import Job

R = TypeVar("R", Text, Chat, Preference, Prompt)
TOKENS = "tokens"
"""Folder of the run directory in which tokenised data lie, shared by its stages."""


def files_of(job: Job, field: str, sources: Sequence[Source]) -> list[list[Path]]:
    """Resolved files of each source in one field of the settings; none for the Hub."""
    return [job.files.get(f"{field}.{index}", []) for index in range(len(sources))]


def read(job: Job, field: str, sources: Sequence[Source], want: type[R]) -> tuple[list[R], list[str]]:
    """All records of the sources in one field of the settings, and notes. Raises DataError."""
    found: Records[R] = read_records(sources, files_of(job, field, sources), want)
    return found.records, found.notes
