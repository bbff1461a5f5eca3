"""A document's words and runs of words as numbers, for counting and comparing. The same in every process."""

import re
from functools import cached_property
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from data.plain import plain_words

Hashes = NDArray[np.uint64]

EAST_ASIAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CUT = re.compile(f"[{EAST_ASIAN}]|[^\\s{EAST_ASIAN}]+")
_PLAIN = re.compile(f"[{EAST_ASIAN}]|[^\\W{EAST_ASIAN}]+")
_EAST = re.compile(f"[{EAST_ASIAN}]")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0x100000001B3)


class Words:
    """Views of one text, each made when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._repeats: dict[int, tuple[NDArray[np.int64], Hashes]] = {}

    @cached_property
    def words(self) -> list[str]:
        """What white space separates; a Chinese or Japanese character is a word."""
        return self.text.split() if self.text.isascii() or not _EAST.search(self.text) else _CUT.findall(self.text)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @cached_property
    def characters(self) -> int:
        """In words."""
        return int(self.lengths.sum())

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, self.text.split("\n\n")) if part]

    def repeats(self, size: int) -> tuple[NDArray[np.int64], Hashes]:
        """Places of the runs of `size` words that occur more than once, in order, and a number for each run: equal where the runs are."""
        if size not in self._repeats:
            self._repeats[size] = self._longer(*self.repeats(size - 1), size) if size > 1 else self._single()
        return self._repeats[size]

    def _single(self) -> tuple[NDArray[np.int64], Hashes]:
        # Python's own hash differs from process to process, which nobody sees: only equality counts here.
        return _twice(np.arange(len(self.words)), np.fromiter(map(hash, self.words), np.int64, len(self.words)).view(np.uint64))

    def _longer(self, places: NDArray[np.int64], numbers: Hashes, size: int) -> tuple[NDArray[np.int64], Hashes]:
        """A run occurs twice only where the runs of one word less at its place and at the next do."""
        if not len(places):
            return places, numbers
        begin = np.flatnonzero(places[1:] == places[:-1] + 1)
        return _twice(places[begin], numbers[begin] * _BASE + numbers[begin + 1])


def _twice(places: NDArray[np.int64], numbers: Hashes) -> tuple[NDArray[np.int64], Hashes]:
    """Those whose number comes more than once."""
    order = np.argsort(numbers)
    ordered = numbers[order]
    same = ordered[1:] == ordered[:-1]
    found = np.sort(order[np.concatenate([same, [False]]) | np.concatenate([[False], same])]) if same.any() else order[:0]
    return places[found], numbers[found]


def plain_hashes(text: str) -> Hashes:
    """A number for each word without what copies differ in: case, punctuation and white space. An East Asian character is a word."""
    words = plain_words(text, _foreign)
    return mixed(np.fromiter(map(crc32, words), np.uint64, len(words)))


def _foreign(text: str) -> list[str]:
    return _PLAIN.findall(text.casefold())


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
        total = total * _BASE + hashes[offset : offset + count]
    return mixed(total)
