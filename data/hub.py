"""Rows of a data set on the Hugging Face Hub, streamed through `datasets`: `hub:owner/name[@revision][:config][:split]`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.errors import DataError
from data.files import Row

WAITS = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before each new try of a stream that broke off; a row that arrives starts them anew."""


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


def read_hub(path: str, skip: int = 0) -> Iterator[Row]:
    """Rows one by one, at constant memory, from row `skip` + 1 on; a recipe's run gives the commit in `path`, so that no row moves meanwhile.

    A stream that breaks off is opened again and goes on behind the last row that came. Raises DataError, with the row and the reason, if the data
    set cannot be opened or if the line stays down.
    """
    number, state, failed = skip, None, 0
    while True:
        stream, came = None, False
        try:
            stream = _opened(path, number, state)
            for value in stream:
                number, failed, came = number + 1, 0, True
                yield Row(path, number, value)
            return
        except Exception as error:  # whatever the network or the data set's own files raise
            if not _passing(error) or failed == len(WAITS):
                raise DataError(f"{path}: cannot be read after row {number}: {type(error).__name__}: {error}") from error
            state = _state(stream) if came else state  # a stream without a row would tell its beginning
            print(f"{path}: broke off after row {number} ({type(error).__name__}); tried again in {WAITS[failed]:g} s", flush=True)
            time.sleep(WAITS[failed])
            failed += 1


def _opened(path: str, number: int, state: Any) -> Any:
    """The stream behind row `number`: by its own saved state, which knows the file and the row in it, or else by counting."""
    from datasets import load_dataset

    place = parse(path)
    stream = load_dataset(place.repository, place.config, split=place.split, revision=place.revision, streaming=True)
    if state is not None:
        stream.load_state_dict(state)
        return stream
    return stream.skip(number) if number else stream


def _state(stream: Any) -> Any:
    """Where a stream of `datasets` stands, if it has begun and can tell."""
    try:
        return stream.state_dict()
    except Exception:  # a stream that never began has none, and those of other kinds neither
        return None


def _passing(error: Exception) -> bool:
    """Whether the fault may be gone in a moment: the network's are, those of names and files are not."""
    module = type(error).__module__.partition(".")[0]
    lasting = isinstance(error, FileNotFoundError | PermissionError | ValueError) or type(error).__name__ in (
        "DatasetNotFoundError",
        "GatedRepoError",
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
    )
    return not lasting and (
        isinstance(error, OSError | EOFError) or module in ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "requests", "urllib3")
    )
