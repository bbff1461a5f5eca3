"""The rows that a run trains on, as a function of data and seed alone: any row of any epoch can be made at any time, so resuming needs no state."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.batches import IGNORE, packed_row
from data.order import epoch_order
from data.packing import pack
from stages.core.seeds import seed_for


@dataclass(frozen=True)
class Document:
    """Tokens that see one another and nothing else."""

    ids: NDArray[np.int32]
    """(T,), T > 1."""
    learn: NDArray[np.bool_] | None = None
    """(T,), True where the token is learned; all but the first if None."""


Row = list[Document]
WINDOW = 2**16
"""Documents that are packed together. Packing millions at once would hold them all in lists; among so many, rows are full anyway."""


class Documents(Protocol):
    """Documents that need not be in memory."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(D,) tokens of each."""

    def __getitem__(self, index: int) -> Document: ...


@dataclass(frozen=True)
class Held:
    """Documents in memory."""

    documents: Sequence[Document]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(document.ids) for document in self.documents], np.int64)

    def __getitem__(self, index: int) -> Document:
        return self.documents[index]


@dataclass(frozen=True)
class Mapped:
    """Documents as stretches of ids (and of their mask) that lie on disk."""

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    learn: NDArray[np.bool_] | None = None

    def __getitem__(self, index: int) -> Document:
        begin = int(self.starts[index])
        end = begin + int(self.lengths[index])
        learn = None if self.learn is None else np.array(self.learn[begin:end])
        return Document(self.ids[begin:end].astype(np.int32), learn)


class PackedRows(Dataset[Row]):
    """`count` rows of at most `capacity` tokens: epoch after epoch, each in another order and in other company.

    More than `WINDOW` documents are dealt into windows once; an epoch visits the windows in an order of its own and packs each by itself, so that
    what is held at a time does not grow with the data.
    """

    def __init__(self, documents: Documents | Sequence[Document], *, capacity: int, seed: int, window: int = WINDOW) -> None:
        self._documents = Held(documents) if isinstance(documents, Sequence) else documents
        self._lengths = self._documents.lengths
        self._capacity, self._seed = capacity, seed
        self._windows = _dealt(len(self._lengths), window, seed)
        # Best fit depends on lengths alone, so every epoch has as many rows, in each window.
        self._rows = [len(pack(self._lengths[members].tolist(), capacity)) for members in self._windows]
        self.per_epoch = sum(self._rows)
        self._count = self.per_epoch
        self._window = lru_cache(maxsize=2)(self._make_window)
        self._visit = lru_cache(maxsize=2)(self._make_visit)

    def resized(self, count: int) -> "PackedRows":
        """The same rows, `count` of them: a share of an epoch or several."""
        self._count = count
        return self

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        return [self._documents[document] for document in self.documents(index)]

    def documents(self, index: int) -> list[int]:
        """Numbers of the documents in a row, counted from 0 in the order in which they were read."""
        epoch, row = divmod(index, self.per_epoch)
        order, ends = self._visit(epoch)
        place = int(np.searchsorted(ends, row, side="right"))
        window = int(order[place])
        within = row - int(ends[place]) + self._rows[window]
        return self._window(epoch, window)[within]

    def tokens(self, index: int) -> list[list[int]]:
        """Ids of those documents."""
        return [self._documents[document].ids.tolist() for document in self.documents(index)]

    def _make_visit(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of the windows in an epoch, and up to which row of the epoch each lasts."""
        order = epoch_order(len(self._rows), seed_for(self._seed, "windows"), epoch)
        return order, np.cumsum(np.array(self._rows)[order])

    def _make_window(self, epoch: int, window: int) -> list[list[int]]:
        members = self._windows[window]
        purpose = () if len(self._windows) == 1 else (window,)
        order = members[epoch_order(len(members), seed_for(self._seed, "documents", *purpose), epoch)]
        rows = pack(self._lengths[order].tolist(), self._capacity)
        return [order[rows[row]].tolist() for row in epoch_order(len(rows), seed_for(self._seed, "rows", *purpose), epoch)]


def _dealt(count: int, window: int, seed: int) -> list[NDArray[np.int64]]:
    """Documents in windows of about equal size, each a random sample of all of them."""
    if count <= window:
        return [np.arange(count)]
    return np.array_split(epoch_order(count, seed_for(seed, "dealt"), 0), -(-count // window))


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """One micro-batch without padding.

    Returns:
        input_ids, position_ids: (1, T) int64; positions restart with each document.
        learned: (N,) int64, the places whose next token is learned. targets: (N,) int64, that next token.
    """
    # Documents of one length side by side let attention take them in one call; their order changes nothing else.
    documents = sorted((document for row in rows for document in row), key=lambda document: len(document.ids))
    packed = packed_row(
        [document.ids for document in documents],  # type: ignore[misc]
        [document.learn if document.learn is not None else np.ones(len(document.ids), np.bool_) for document in documents],  # type: ignore[misc]
    )
    learned = (packed["labels"] != IGNORE).nonzero().squeeze(1)
    return {
        "input_ids": packed["input_ids"].unsqueeze(0),
        "position_ids": packed["position_ids"].unsqueeze(0),
        "learned": learned - 1,
        "targets": packed["labels"][learned],
    }


@dataclass(frozen=True)
class Shape:
    """How a run's rows are cut into steps and forward passes."""

    steps: int
    rows_per_step: int
    micro_batch: int
    """Rows of one forward pass."""
    accumulation: int
    """Forward passes of one process in a step."""

    def forwards(self) -> dict[str, int]:
        """As `stages.core.arguments.arguments` takes it."""
        return {"steps": self.steps, "micro_batch": self.micro_batch, "accumulation": self.accumulation}
