"""Documents that hold the questions of an exam: found by runs of words that both have (GPT-3; Brown et al. 2020, appendix C)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.cleaning.words import Hashes, plain_hashes, runs

SHORTEST = 8
"""Words that an exam's text must have to be looked for as a whole where it is shorter than a run; a shorter one is anybody's sentence."""


@dataclass(frozen=True)
class Exams:
    """Runs of words of the sets that must not be trained on, by their length."""

    runs: dict[int, NDArray[np.uint64]]
    texts: int = 0
    too_short: int = 0
    """Texts that have too few words to be looked for."""

    def overlap(self, hashes: Hashes) -> int:
        """How many runs of a document's plain words an exam has too."""
        return sum(_common(runs(hashes, size), known) for size, known in self.runs.items())


def exams_of(texts: Iterable[str], size: int) -> Exams:
    """Runs of `size` words; of a text with fewer, the whole of it."""
    found: dict[int, list[NDArray[np.uint64]]] = {}
    count = too_short = 0
    for text in texts:
        hashes = plain_hashes(text)
        count += 1
        length = min(size, len(hashes))
        if length < min(size, SHORTEST):
            too_short += 1
            continue
        found.setdefault(length, []).append(np.unique(runs(hashes, length)))
    return Exams({length: np.unique(np.concatenate(parts)) for length, parts in found.items()}, count, too_short)


def _common(hashes: Hashes, known: NDArray[np.uint64]) -> int:
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    return int((known[places] == hashes).sum())
