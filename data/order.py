"""The order in which rows are visited: it depends on the seed and the epoch, never on the number of processes."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def epoch_order(n: int, seed: int, epoch: int) -> "NDArray[np.int64]":
    """(n,) int64: a permutation of 0..n-1, equal for equal arguments on every machine and numpy version."""
    import numpy as np

    words = hashlib.sha256(f"order/{seed}/{epoch}".encode()).digest()
    # RandomState, not Generator: numpy promises that its stream never changes, so a run resumed after an upgrade goes on in the same order.
    state = np.random.RandomState(np.frombuffer(words, dtype="<u4").tolist())
    return state.permutation(n).astype(np.int64)


def visited(n: int, seed: int, start: int, count: int) -> list[int]:
    """Rows number start .. start+count-1 of an endless sequence of epochs. `start` is all the state that resuming needs."""
    if n < 1:
        raise ValueError("no rows to visit")
    rows: list[int] = []
    while len(rows) < count:
        epoch, offset = divmod(start + len(rows), n)
        rows += epoch_order(n, seed, epoch)[offset : offset + count - len(rows)].tolist()
    return rows
