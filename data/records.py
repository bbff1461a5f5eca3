"""Records of a stage's sources, ready to use: read, checked, counted, weighted, and split into training and held-out. Torch-free."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, cast

from data.config import Source
from data.errors import DataError
from data.formats import Chat, Preference, Prompt, Record, Text
from data.mixture import check_weight, repeated, tempered
from data.plain import plain_words
from data.reading import Stream

R = TypeVar("R", Text, Chat, Preference, Prompt)
S = TypeVar("S")


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


def read_records(sources: Sequence[Source], files: Sequence[Sequence[Path]], want: type[R], *, temperature: float = 1.0) -> Records[R]:
    """Everything that the sources hold, as records of one kind.

    `files` holds the resolved files of each source (`data.sources.resolve`), none for `hub:`.
    Applies `columns`, `limit`, `on_bad_rows` and `weight` (3 repeats each row three times, 0.5 takes half, the same half each time),
    under a `temperature` (`data.mixture`). Raises DataError if a row is bad and the source does not skip bad rows, if a source holds nothing, or if
    its weight takes none of its rows.
    """
    stream = Stream(sources, files, want)
    found: list[list[R]] = [[] for _ in sources]
    for number, record in stream:
        found[number].append(record)
    whole: Records[R] = Records([], stream.notes, {}, stream.warnings)
    for source, records, weight in zip(
        sources, found, tempered(stream.counts, [source.weight for source in sources], temperature), strict=True
    ):
        check_weight(source.path, len(records), weight)
        weighted = repeated(records, weight)
        whole.records += weighted
        whole.counts[source.path] = whole.counts.get(source.path, 0) + len(weighted)
    return whole


def content_key(record: Record) -> str:
    """What makes two records the same to a split: normalised text; for pairs and prompts, that of the prompt."""
    if isinstance(record, Text):
        return plain(record.text)
    messages = record.prompt if isinstance(record, Preference) else record.messages
    return "\n".join(f"{message['role']}: {plain(str(message['content']))}" for message in messages)


def plain(text: str) -> str:
    """Text without what near-identical rows differ in: case, accents' encoding, punctuation and white space."""
    return b" ".join(plain_words(text, _foreign)).decode("utf-8", "surrogatepass")


def _foreign(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def split(records: Sequence[S], share: float, key: Callable[[S], str] | None = None) -> tuple[list[S], list[S]]:
    """Training and held-out records, both in order. Records with one key are never on both sides.

    A record's side depends on its key alone, so that it stays there when data are added. If none falls below `share`, the one
    key that comes nearest is held out. Raises DataError if all records share one key.
    """
    name = key or cast(Callable[[S], str], content_key)
    held = sides([place_of(name(record)) for record in records], share)
    return [r for r, out in zip(records, held, strict=True) if not out], [r for r, out in zip(records, held, strict=True) if out]


def place_of(key: str) -> float:
    """Where a key lies in [0, 1): the same for the same key, evenly spread over keys."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def sides(places: Sequence[float], share: float) -> list[bool]:
    """Which records are held out, by the places of their keys. Raises DataError if all share one key."""
    lowest, highest = min(places, default=0.0), max(places, default=0.0)
    if lowest == highest:
        raise DataError(
            f"{len(places)} records with one and the same content cannot be split into training and held-out ones; name `validation` data, or give documents apart"
        )
    bound = min(max(share, lowest * (1 + 1e-12)), highest)
    return [place < bound or place == lowest for place in places]


def shared(train: Sequence[S], held_out: Sequence[S], key: Callable[[S], str] | None = None) -> int:
    """Held-out records whose content is also trained on: what they measure is memory."""
    name = key or cast(Callable[[S], str], content_key)
    known = {name(record) for record in train}
    return sum(name(record) in known for record in held_out)
