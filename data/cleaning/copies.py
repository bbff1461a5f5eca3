"""Documents that repeat others: exact ones by a digest, near ones by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., ch. 3).

Memory does not hold the corpus: a document is 16 bytes of digest, 512 of signature and 8 a band, all on disk, and what is held at a time is one band
of all documents and a few arrays of a number a document (about 60 bytes a document, 100 MB for the 1.7 million documents of a 5 GB corpus).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.cleaning.words import Hashes, mixed, runs

PERMUTATIONS = 128
SHINGLE = 5
"""Words in a row that are one element of a document's set."""
_CHUNK = 1024

_random = np.random.RandomState(20_211)  # numpy promises that its stream never changes
_FACTORS_P1 = (_random.randint(0, 2**31, PERMUTATIONS).astype(np.uint32) * np.uint32(2) + np.uint32(1))[:, None]
_SHIFTS_P1 = _random.randint(0, 2**32, PERMUTATIONS, np.int64).astype(np.uint32)[:, None]


def digest_of(hashes: Hashes) -> NDArray[np.uint64]:
    """(2,) of a document's plain words: equal where they are."""
    return np.frombuffer(hashlib.blake2b(hashes.tobytes(), digest_size=16).digest(), np.uint64)


def signature_of(hashes: Hashes) -> NDArray[np.uint32]:
    """(128,) minima of 128 random orders of the document's set of shingles: two of them agree with the probability of the sets' similarity."""
    elements = runs(hashes, min(SHINGLE, max(1, len(hashes)))).astype(np.uint32)
    lowest = np.full(PERMUTATIONS, 2**32 - 1, np.uint32)
    for begin in range(0, len(elements), _CHUNK):
        # x -> a x + b modulo 2^32 with odd a is a permutation, and the elements are spread evenly already (`words.mixed`).
        ordered_PC = elements[begin : begin + _CHUNK] * _FACTORS_P1
        ordered_PC += _SHIFTS_P1
        np.minimum(lowest, ordered_PC.min(axis=1), out=lowest)
    return lowest


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: documents that agree in one whole band are compared."""

    rows: int
    count: int

    @classmethod
    def of(cls, threshold: float) -> "Bands":
        """The longest bands by which two documents at the threshold are compared with a probability of 0.95 or more."""
        for rows in range(PERMUTATIONS, 0, -1):
            found = cls(rows, PERMUTATIONS // rows)
            if found.probability(threshold) >= 0.95:
                return found
        return cls(1, PERMUTATIONS)

    def probability(self, similarity: float) -> float:
        """Of being compared, at a similarity."""
        return float(1 - (1 - similarity**self.rows) ** self.count)

    def keys(self, signatures_DP: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """(count, D): a number for each band of each document."""
        cut = signatures_DP[:, : self.rows * self.count].reshape(len(signatures_DP), self.count, self.rows).astype(np.uint64)
        total = np.zeros(cut.shape[:2], np.uint64)
        for row in range(self.rows):
            total = total * np.uint64(0x100000001B3) + mixed(cut[:, :, row])
        return np.ascontiguousarray(mixed(total).T)


def exact_copies(digests_D2: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(D,) True for every document whose digest an earlier one has."""
    order = np.lexsort((digests_D2[:, 1], digests_D2[:, 0]))  # stable: of equal ones the first stays first
    ordered = digests_D2[order]
    copies: NDArray[np.bool_] = np.zeros(len(order), np.bool_)
    copies[order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]] = True
    return copies


class Signatures:
    """Signatures of the whole corpus, in the files of its parts."""

    def __init__(self, parts: Sequence[NDArray[np.uint32]]) -> None:
        self._parts = parts
        self._begins = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def at(self, documents: NDArray[np.int64]) -> NDArray[np.uint32]:
        """(N, 128) of some documents."""
        found = np.empty((len(documents), PERMUTATIONS), np.uint32)
        which = np.searchsorted(self._begins, documents, side="right") - 1
        for part in np.unique(which):
            inside = which == part
            found[inside] = self._parts[part][documents[inside] - self._begins[part]]
        return found


def near_copies(
    bands: Sequence[Sequence[NDArray[np.uint64]]], signatures: Signatures, gone: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """(D,) True for every document that is linked to an earlier one by similarities of `threshold` or more; `gone` ones take no part.

    `bands` has, for each band, the keys of each part's documents. In a group of documents with one key, each is compared with the group's first and
    with its predecessor: what is compared grows with the documents and not with their square, and a group that is one family is found whole.
    """
    root = np.arange(len(gone))
    alive = np.flatnonzero(~gone)
    for parts in bands:
        keys = np.concatenate(parts)[alive]
        order = alive[np.argsort(keys, kind="stable")]
        keys = np.sort(keys)
        same = keys[1:] == keys[:-1]
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        first = order[np.repeat(begins, np.diff([*begins, len(order)]))]
        for earlier in (first[1:], order[:-1]):
            pairs = np.stack([earlier, order[1:]], axis=1)[same]
            _join(root, _similar(pairs, signatures, root, threshold))
    roots = _roots(root)
    copies: NDArray[np.bool_] = roots != np.arange(len(gone))
    return copies


def _similar(pairs: NDArray[np.int64], signatures: Signatures, root: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Those of the pairs whose signatures agree enough; pairs that are one family already are left out."""
    roots = _roots(root)
    pairs = pairs[roots[pairs[:, 0]] != roots[pairs[:, 1]]]
    found = []
    for begin in range(0, len(pairs), 4096):
        part = pairs[begin : begin + 4096]
        agree = (signatures.at(part[:, 0]) == signatures.at(part[:, 1])).mean(axis=1)
        found.append(part[agree >= threshold])
    return np.concatenate(found) if found else pairs


def _join(root: NDArray[np.int64], pairs: NDArray[np.int64]) -> None:
    for one, other in pairs.tolist():
        a, b = _find(root, one), _find(root, other)
        root[max(a, b)] = min(a, b)  # so that the first document of a family is its root


def _find(root: NDArray[np.int64], place: int) -> int:
    while root[place] != place:
        root[place] = root[root[place]]
        place = int(root[place])
    return place


def _roots(root: NDArray[np.int64]) -> NDArray[np.int64]:
    """The root of every document."""
    while not np.array_equal(further := root[root], root):
        root = further
    return root
