"""The rows that a run trains on, as a function of data and seed alone: any row of any epoch can be made at any time, so resuming needs no state."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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


class PackedRows(Dataset[Row]):
    """`count` rows of at most `capacity` tokens: epoch after epoch, each in another order and in other company."""

    def __init__(self, documents: Sequence[Document], *, capacity: int, seed: int) -> None:
        self._documents = documents
        self._lengths = [len(document.ids) for document in documents]
        self._capacity, self._seed = capacity, seed
        # Best fit depends on lengths alone, so every epoch has as many rows.
        self.per_epoch = len(pack(self._lengths, capacity))
        self._count = self.per_epoch
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def resized(self, count: int) -> "PackedRows":
        """The same rows, `count` of them: a share of an epoch or several."""
        self._count = count
        return self

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        epoch, row = divmod(index, self.per_epoch)
        return [self._documents[document] for document in self._epoch(epoch)[row]]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        order = epoch_order(len(self._lengths), seed_for(self._seed, "documents"), epoch)
        rows = pack([self._lengths[document] for document in order], self._capacity)
        return [[int(order[place]) for place in rows[row]] for row in epoch_order(len(rows), seed_for(self._seed, "rows"), epoch)]


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
        """As `stages.core.training.arguments` takes it."""
        return {"steps": self.steps, "micro_batch": self.micro_batch, "accumulation": self.accumulation}


def divisor(rows: int, at_most: int) -> int:
    """The largest divisor of `rows` that is no larger than `at_most` (1 at least)."""
    return max(d for d in range(1, max(1, min(rows, at_most)) + 1) if rows % d == 0)
