"""The words of a text without what copies of it differ in, several times faster than by a regular expression. Pure; imports nothing of ours."""

import re
from collections.abc import Callable

_TABLE = bytes(byte if byte > 127 or chr(byte).isalnum() or byte == ord("_") else ord(" ") for byte in range(256)).lower()
"""ASCII in lower case, with a blank for all that is no part of a word; the bytes of other characters as they are."""
_FOREIGN = re.compile(rb"[\x80-\xff]+")


def plain_words(text: str, foreign: Callable[[str], list[str]]) -> list[bytes]:
    """Words in lower case as UTF-8.

    `foreign` gives the words of a stretch that holds other than ASCII. No ASCII character that is no part of a word may matter to it: then such
    stretches, which reach from one of these to the next, are looked at alone, and in most texts they are few.
    """
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) - len(text) > len(text) // 8:
        return [word.encode("utf-8", "surrogatepass") for word in foreign(text)]
    raw = raw.translate(_TABLE)
    return (raw if text.isascii() else _mended(raw, foreign)).split()


def _mended(raw: bytes, foreign: Callable[[str], list[str]]) -> bytes:
    """Every stretch between blanks that holds other than ASCII in the form of its words."""
    found, done = [], 0
    for match in _FOREIGN.finditer(raw):
        if match.start() < done:
            continue
        begin, end = raw.rfind(b" ", done, match.start()) + 1 or done, raw.find(b" ", match.end())
        end = len(raw) if end < 0 else end
        words = foreign(raw[begin:end].decode("utf-8", "surrogatepass"))
        found += [raw[done:begin], " ".join(words).encode("utf-8", "surrogatepass")]
        done = end
    return b"".join([*found, raw[done:]])
