"""A document's words and runs of words as numbers, for counting and comparing. The same in every process."""

import re
from functools import cached_property
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

EAST_ASIAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CUT = re.compile(f"[{EAST_ASIAN}]|[^\\s{EAST_ASIAN}]+")
_PLAIN = re.compile(f"[{EAST_ASIAN}]|[^\\W{EAST_ASIAN}]+")
_EAST = re.compile(f"[{EAST_ASIAN}]")
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Words:
    """Views of one text, each made when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._repeats: dict[int, NDArray[np.int64]] = {}

    @cached_property
    def words(self) -> list[str]:
        """What white space separates; a Chinese or Japanese character is a word."""
        return self.text.split() if self.text.isascii() or not _EAST.search(self.text) else _CUT.findall(self.text)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, self.text.split("\n\n")) if part]

    @cached_property
    def hashes(self) -> Hashes:
        """(W,) one a word, as it is written."""
        return hashed(self.words)

    def runs(self, size: int) -> Hashes:
        """(W - size + 1,) one for each run of `size` words."""
        return runs(self.hashes, size)

    def repeats(self, size: int) -> NDArray[np.int64]:
        """Places of the runs of `size` words that occur more than once."""
        if size not in self._repeats:
            shorter = self._repeats.get(size - 1)
            # Where no shorter run occurs twice, no longer one does.
            self._repeats[size] = shorter if shorter is not None and not len(shorter) else _twice(self.runs(size))
        return self._repeats[size]


def _twice(runs: Hashes) -> NDArray[np.int64]:
    ordered = np.sort(runs)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.zeros(0, np.int64)
    order = np.argsort(runs)
    same = runs[order][1:] == runs[order][:-1]
    found: NDArray[np.int64] = order[np.concatenate([same, [False]]) | np.concatenate([[False], same])]
    return found


def plain_words(text: str) -> list[str]:
    """Words without what copies differ in: case, punctuation and white space."""
    return _PLAIN.findall(text.casefold())


def hashed(words: list[str]) -> Hashes:
    """A number for each word; no word holds a blank."""
    if not words:
        return np.zeros(0, np.uint64)
    cut = " ".join(words).encode("utf-8", "surrogatepass").split(b" ")  # one call where a word by word takes three times as long
    return mixed(np.fromiter(map(crc32, cut), np.uint64, len(words)))


def mixed(values: Hashes) -> Hashes:
    """The values spread over 64 bits (the finaliser of splitmix64; Steele et al. 2014)."""
    values = values + _MIX
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def runs(hashes: Hashes, size: int) -> Hashes:
    """A number for each run of `size` neighbours: it depends on them and on their order."""
    count = len(hashes) - size + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for offset in range(size):
        total = total * np.uint64(0x100000001B3) + hashes[offset : offset + count]
    return mixed(total)
