"""The rules that remove documents: each a name, a measure of a document, and whether the threshold of that name (`Rules`) is a floor or a ceiling."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import filterfalse

import numpy as np

from data.cleaning.config import Rules
from data.cleaning.words import EAST_ASIAN, Words

Measure = Callable[[Words], float]

_BULLET = ("•", "-", "*", "‣", "●", "–", "·", "◦")
_ELLIPSIS = ("...", "…")
_STOP = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_FINISHED = tuple(".!?\"'”’»)]:。！？」』…")
_EAST = re.compile(f"[{EAST_ASIAN}]")


def broken(words: Words, rules: Rules) -> tuple[str, float] | None:
    """The first rule that a document breaks, and its measure."""
    for name, measure, floor in RULES:
        threshold = getattr(rules, name)
        if threshold is None or threshold is False:
            continue
        value = measure(words)
        # A switch is broken by its mere presence.
        if (threshold is True and value > 0) or (threshold is not True and (value < threshold if floor else value > threshold)):
            return name, value
    return None


def _mean_length(words: Words) -> float:
    return words.characters / len(words.lengths) if len(words.lengths) else 0.0


def _mean_length_outside_east_asia(words: Words) -> float:
    if not words.text.isascii() and 2 * len(_EAST.findall(words.text)) > len(words.text):
        return float("inf")
    return _mean_length(words)


def _symbols(words: Words) -> float:
    ellipses = words.text.count("...") + words.text.count("…")
    return max(words.text.count("#"), ellipses) / max(1, len(words.words))


def _share(parts: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, parts)) / len(parts) if parts else 0.0


def _alphabetic(words: Words) -> float:
    others = filterfalse(str.isalpha, words.words)
    return 1 - sum(not any(map(str.isalpha, word)) for word in others) / len(words.words) if words.words else 0.0


def _repeats(parts: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for part in parts:
        if part in seen:
            yield part
        seen.add(part)


def _repeated(parts: Sequence[str]) -> float:
    return sum(1 for _ in _repeats(parts)) / len(parts) if parts else 0.0


def _repeated_characters(parts: Sequence[str]) -> float:
    whole = sum(map(len, parts))
    return sum(map(len, _repeats(parts))) / whole if whole else 0.0


def _top(size: int) -> Measure:
    """Share of characters in the most frequent run of `size` words, if it occurs at all more than once."""

    def measure(words: Words) -> float:
        places, numbers = words.repeats(size)
        if not len(places):
            return 0.0
        _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
        most = counts.max()
        place = int(places[first[counts == most].min()])
        return float(words.lengths[place : place + size].sum() * most / words.characters)

    return measure


def _covered(size: int) -> Measure:
    """Share of characters in runs of `size` words that occur more than once, each character counted once."""

    def measure(words: Words) -> float:
        places, _ = words.repeats(size)
        if not len(places):
            return 0.0
        steps = np.zeros(len(words.lengths) + 1, np.int64)
        steps[places] += 1
        steps[places + size] -= 1
        inside = np.cumsum(steps[:-1]) > 0
        return float(words.lengths[inside].sum() / words.characters)

    return measure


RULES: tuple[tuple[str, Measure, bool], ...] = (
    ("words_min", lambda words: len(words.words), True),
    ("words_max", lambda words: len(words.words), False),
    ("word_length_min", _mean_length_outside_east_asia, True),
    ("word_length_max", _mean_length, False),
    ("symbols", _symbols, False),
    ("bullet_lines", lambda words: _share(words.lines, lambda line: line.startswith(_BULLET)), False),
    ("ellipsis_lines", lambda words: _share(words.lines, lambda line: line.endswith(_ELLIPSIS)), False),
    ("alphabetic_words", _alphabetic, True),
    ("stop_words", lambda words: len(_STOP.intersection(map(str.lower, words.words))), True),
    ("duplicate_lines", lambda words: _repeated(words.lines), False),
    ("duplicate_paragraphs", lambda words: _repeated(words.paragraphs), False),
    ("duplicate_line_characters", lambda words: _repeated_characters(words.lines), False),
    ("duplicate_paragraph_characters", lambda words: _repeated_characters(words.paragraphs), False),
    *((f"top_{size}_gram", _top(size), False) for size in (2, 3, 4)),
    *((f"duplicate_{size}_grams", _covered(size), False) for size in range(5, 11)),
    ("placeholder", lambda words: "lorem ipsum" in words.text.lower(), False),
    ("braces", lambda words: "{" in words.text, False),
    ("unfinished_lines", lambda words: _share(words.lines, lambda line: not line.endswith(_FINISHED)), False),
    ("short_lines", lambda words: _share(words.lines, lambda line: len(line) < 30), False),
)
"""Name, measure, and whether the threshold is a floor; cheap ones first."""
