"""What is done inside a document: lines taken out, personal data replaced, long documents split."""

import re
from collections.abc import Iterator
from itertools import pairwise

from data.cleaning.config import Lines

_BOILERPLATE = (
    "javascript",
    "terms of use",
    "terms of service",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "all rights reserved",
)
_BOILERPLATE_WORDS = 30
_FINISHED = tuple(".!?\"'”’»)]:;。！？」』…")
PERSONAL = {
    "email": re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+\b"),
    "ip": re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)"),
    "card": re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])"),
    "phone": re.compile(r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?|\d{2,4}[ .-])\d{3,4}[ .-]?\d{3,4}(?![\w.]*\d)"),
}
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])")


def without_lines(text: str, lines: Lines) -> tuple[str, int]:
    """The text without the lines that go, and how many went. Blank lines stay."""
    if lines.words_min is None and not lines.unfinished and not (lines.boilerplate and _named(text.lower())):
        return text, 0
    kept = [line for line in text.split("\n") if not line.strip() or not _goes(line, lines)]
    gone = text.count("\n") + 1 - len(kept)
    return ("\n".join(kept).strip(), gone) if gone else (text, 0)


def _goes(line: str, lines: Lines) -> bool:
    if lines.words_min is not None and len(line.split()) < lines.words_min:
        return True
    if lines.unfinished and not line.rstrip().endswith(_FINISHED):
        return True
    if not lines.boilerplate or len(line) > 8 * _BOILERPLATE_WORDS:
        return False
    return _named(line.lower()) and len(line.split()) < _BOILERPLATE_WORDS


def _named(lower: str) -> bool:
    return any(words in lower for words in _BOILERPLATE)


def scrubbed(text: str, kinds: tuple[str, ...]) -> tuple[str, int]:
    """The text with personal data replaced, and how many pieces were."""
    count = 0

    def name(kind: str, found: str) -> str:
        nonlocal count
        if kind == "card" and not _is_card(found):
            return found
        count += 1
        return f"[{kind.upper()}]"

    for kind, pattern in PERSONAL.items():  # in an order in which no pattern takes part of what a later one would take whole
        if kind in kinds:
            text = pattern.sub(lambda match, kind=kind: name(kind, match[0]), text)  # type: ignore[misc]
    return text, count


def _is_card(digits: str) -> bool:
    """Whether a card's check digit holds (Luhn)."""
    values = [int(digit) for digit in digits if digit.isdigit()][::-1]
    return sum(value if place % 2 == 0 else sum(divmod(2 * value, 10)) for place, value in enumerate(values)) % 10 == 0


def split_text(text: str, longest: int) -> list[str]:
    """Parts of at most `longest` characters: whole paragraphs as far as they fit, a longer one by sentences, a longer one by words, else cut."""
    return [part for part in (part.strip() for part in _joined(_pieces(text, longest), longest)) if part]


def _pieces(text: str, longest: int) -> Iterator[str]:
    """Paragraphs, each with the white space that follows it, or what a longer one falls into."""
    for cut in (re.compile(r"(?<=\n\n)(?!\n)"), re.compile(r"(?<=\n)"), _SENTENCE, re.compile(r"(?<=\s)(?!\s)")):
        if len(text.rstrip()) <= longest:
            yield text
            return
        parts = _kept_split(cut, text)
        if len(parts) > 1:
            for part in parts:
                yield from _pieces(part, longest)
            return
    yield from (text[begin : begin + longest] for begin in range(0, len(text), longest))


def _kept_split(cut: re.Pattern[str], text: str) -> list[str]:
    """The text in pieces that join to it again."""
    ends = [match.end() for match in cut.finditer(text) if 0 < match.end() < len(text)]
    bounds = [0, *dict.fromkeys(ends), len(text)]
    return [text[begin:end] for begin, end in pairwise(bounds)]


def _joined(pieces: Iterator[str], longest: int) -> Iterator[str]:
    whole = ""
    for piece in pieces:
        if whole and len(whole) + len(piece.rstrip()) > longest:
            yield whole
            whole = ""
        whole += piece
    yield whole
