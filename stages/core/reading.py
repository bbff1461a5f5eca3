"""A stage's sources: where their files are, their records, and their tokens on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from data.config import Source
from data.formats import Chat, Preference, Prompt, Text
from data.records import Records, read_records
from data.tokenfile import TokenFile
from stages.contract import TOKENS, Job

R = TypeVar("R", Text, Chat, Preference, Prompt)


def files_of(job: Job, field: str, sources: Sequence[Source]) -> list[list[Path]]:
    """Resolved files of each source in one field of the settings; none for the Hub."""
    return [job.files.get(f"{field}.{index}", []) for index in range(len(sources))]


def token_folder(job: Job) -> Path:
    """Where the run's tokenised data lie."""
    return job.folder.parent / TOKENS


def note_tokens(job: Job, tokens: TokenFile) -> None:
    """Leave a link to tokens that the stage reads, so that `pipeline clean` keeps them as long as the stage."""
    link = job.folder / TOKENS / tokens.folder.name
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(Path(os.path.relpath(tokens.folder.resolve(), link.parent.resolve())))
    except FileExistsError:  # by an earlier attempt, or by another process of this one
        return


def read(job: Job, field: str, sources: Sequence[Source], want: type[R]) -> tuple[list[R], list[str]]:
    """All records of the sources in one field of the settings, and notes. Raises DataError."""
    found: Records[R] = read_records(sources, files_of(job, field, sources), want)
    return found.records, found.notes
