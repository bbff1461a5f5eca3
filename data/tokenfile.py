"""Documents of token ids in files that are mapped into memory: written once, read anywhere at no cost, never held as a whole.

ids.bin        uint16 (vocabularies up to 65,536) or uint32, all documents behind one another
learn.bin      one byte a token, where documents have a mask
documents.bin  a record a document (`DOCUMENT`)
about.json     dtype, counts and SHA-256 of the files; what the maker noted
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOCUMENT = np.dtype([("end", "<i8"), ("source", "<i4"), ("size", "<i4"), ("place", "<f8"), ("nats", "<f8"), ("fit", "u1")])
"""Where a document ends in `ids.bin`; which source it is from; its UTF-8 bytes; where its content's key lies in [0, 1); its entropy, or NaN; `FIT`."""
FIT = WHOLE, SHORTENED, DROPPED = 0, 1, 2
"""Whether a record was taken whole, lost turns to fit, or was left out; such a one has no tokens, but keeps its place in the count."""
ABOUT = "about.json"
BATCH = 256
"""Documents that are written at a time."""


@dataclass(frozen=True)
class Written:
    """One document to be written."""

    ids: NDArray[np.int32]
    source: int = 0
    size: int = 0
    place: float = 0.0
    nats: float = float("nan")
    learn: NDArray[np.bool_] | None = None
    fit: int = WHOLE


def write_tokens(folder: Path, documents: Iterable[Written], *, vocabulary: int, masked: bool = False) -> dict[str, Any]:
    """Write documents, a few at a time, into an existing folder; returns what `about.json` is to say of them. Raises ValueError for an id out of range."""
    kind = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
    names = ["ids.bin", "documents.bin", *(["learn.bin"] if masked else [])]
    files = {name: (folder / name).open("wb") for name in names}
    remaining, end, count = iter(documents), 0, 0
    try:
        while batch := list(islice(remaining, BATCH)):
            ids = np.concatenate([document.ids for document in batch])
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
                raise ValueError(_outside(batch, count, vocabulary))
            records = _records(batch, end)
            files["ids.bin"].write(ids.astype(kind).tobytes())
            files["documents.bin"].write(records.tobytes())
            if masked:
                files["learn.bin"].write(np.concatenate([document.learn for document in batch]).astype(np.bool_).tobytes())
            end, count = end + len(ids), count + len(batch)
    finally:
        for file in files.values():
            file.close()
    return {"dtype": kind.str, "documents": count, "tokens": end, "files": {name: _digest(folder / name) for name in names}}


def _records(batch: Sequence[Written], end: int) -> NDArray[Any]:
    """What is known of each document; `end` is where the ids before them end."""
    found = np.array([(0, item.source, item.size, item.place, item.nats, item.fit) for item in batch], DOCUMENT)
    found["end"] = end + np.cumsum([len(item.ids) for item in batch])
    return found


def _outside(batch: Sequence[Written], before: int, vocabulary: int) -> str:
    for number, document in enumerate(batch, start=before + 1):
        for token in (int(document.ids.min(initial=0)), int(document.ids.max(initial=0))):
            if not 0 <= token < vocabulary:
                return f"document {number} holds token {token}, outside a vocabulary of {vocabulary}"
    return ""


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class TokenFile:
    """What `write_tokens` wrote: a sequence of documents, (T,) int32 each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
        self.ids = _mapped(folder / "ids.bin", np.dtype(self.about["dtype"]), self.about["tokens"])
        self.documents = _mapped(folder / "documents.bin", DOCUMENT, self.about["documents"])
        masked = "learn.bin" in self.about["files"]
        self.learn = _mapped(folder / "learn.bin", np.dtype(np.bool_), self.about["tokens"]) if masked else None

    @property
    def starts(self) -> NDArray[np.int64]:
        """(D,) where each document begins in `ids`."""
        ends = self.documents["end"]
        return np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(D,) tokens of each document."""
        return np.diff(self.documents["end"], prepend=np.int64(0))

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        end = int(self.documents["end"][index])
        begin = int(self.documents["end"][index - 1]) if index % len(self) else 0
        return self.ids[begin:end].astype(np.int32)

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[index] for index in range(len(self)))


def _mapped(file: Path, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(file, kind, "r", shape=(count,)) if count else np.zeros(0, kind)


def is_whole(folder: Path) -> bool:
    """Whether the files are there, every byte as it was written."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        return all(_digest(folder / name) == digest for name, digest in about["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False
