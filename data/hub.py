"""Rows of a data set on the Hugging Face Hub, streamed through `datasets`: `hub:owner/name[@revision][:config][:split]`."""

from collections.abc import Iterator
from dataclasses import dataclass

from data.errors import DataError
from data.files import Row


@dataclass(frozen=True)
class Place:
    """Where on the Hub."""

    repository: str
    revision: str | None
    config: str | None
    split: str


def parse(path: str) -> Place:
    """Take `hub:owner/name[@revision][:config][:split]` apart; the split is `train` if left out. Raises DataError."""
    name, *rest = path.removeprefix("hub:").split(":")
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or len(rest) > 2:
        raise DataError(f"'{path}' names no data set; wanted hub:owner/name[@revision][:config][:split]")
    config = rest[0] if rest and rest[0] else None
    return Place(repository, revision or None, config, rest[1] if len(rest) == 2 else "train")


def read_hub(path: str) -> Iterator[Row]:
    """Rows one by one, at constant memory. Raises DataError, with the reason, if the data set cannot be opened or breaks off."""
    from datasets import load_dataset

    place = parse(path)
    number = 0
    try:
        stream = load_dataset(place.repository, place.config, split=place.split, revision=place.revision, streaming=True)
        for number, value in enumerate(stream, start=1):
            yield Row(path, number, value)
    except Exception as error:  # whatever the network or the data set's own files raise
        raise DataError(f"{path}: cannot be read after row {number}: {type(error).__name__}: {error}") from error
