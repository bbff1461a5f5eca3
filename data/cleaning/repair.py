"""Text as it was meant: encodings repaired, one Unicode form, nothing that is no text."""

import re
import unicodedata

_CONTROL = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but tab and line ends
    "\u00ad\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffd"  # invisible, directional, replacement
    "\ud800-\udfff\ufdd0-\ufdef\U0000fffe\U0000ffff"  # halves of pairs and what is no character
    "\ue000-\uf8ff]"  # private use
)
_CONTROL_BYTES = bytes(byte for byte in range(128) if _CONTROL.match(chr(byte)))
_LINE_END = re.compile(r"\r\n?|\x85")
_TRAILING = re.compile(r"[ \t]+\n")
_GAPS = re.compile(r"\n{4,}")


def repaired(text: str) -> str:
    """The text, repaired. Equal for a text that is repaired already."""
    if not text.isascii():
        text = _decoded_right(text)
        text = unicodedata.normalize("NFC", text)
    # Each pattern is asked for by a plain search first, which is many times faster than the pattern itself.
    if "\r" in text or "\x85" in text:
        text = _LINE_END.sub("\n", text)
    text = text.encode("ascii").translate(None, _CONTROL_BYTES).decode("ascii") if text.isascii() else _CONTROL.sub("", text)
    if " \n" in text or "\t\n" in text:
        text = _TRAILING.sub("\n", text)
    return (_GAPS.sub("\n\n\n", text) if "\n\n\n\n" in text else text).strip()


def _decoded_right(text: str) -> str:
    """ftfy's repair of text that was decoded by the wrong table; only where its own heuristic sees a sign of that, as it is slow."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    foreign = " ".join(word for word in text.split(" ") if not word.isascii())
    return str(fix_encoding(text)) if is_bad(foreign) else text
