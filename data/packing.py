"""Best-fit packing of documents into rows. Pure: lengths in, positions out; imports nothing of ours."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the documents in each row: every index once, no row longer than `capacity`.

    Best-fit decreasing: the longest document first, each into the fullest row that still holds it. Ties keep the order of the input,
    so equal inputs give equal rows. Raises ValueError if a document is longer than `capacity`.
    """
    longest = max(lengths, default=0)
    if longest > capacity:
        raise ValueError(f"a document of {longest} tokens does not fit into a row of {capacity}; cut it first")
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # by space left; last opened is filled first
    spaces: list[int] = []  # the keys of open_rows, sorted; at most `capacity` of them, so insertion is cheap
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(spaces, lengths[index])
        if place == len(spaces):
            rows.append([])
            row, space = len(rows) - 1, capacity
        else:
            space = spaces[place]
            row = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space], spaces[place]
        rows[row].append(index)
        left = space - lengths[index]
        if left not in open_rows:
            insort(spaces, left)
            open_rows[left] = []
        open_rows[left].append(row)
    return rows


def cut(length: int, capacity: int) -> list[tuple[int, int]]:
    """Begin and end of the pieces of a document that is longer than a row.

    Neighbours share one token, so that every token but the document's first is predicted from its predecessor exactly once.
    """
    if capacity < 2:
        raise ValueError(f"a row of {capacity} tokens has nothing to predict")
    if length <= capacity:
        return [(0, length)]
    return [(begin, min(begin + capacity, length)) for begin in range(0, length - 1, capacity - 1)]
