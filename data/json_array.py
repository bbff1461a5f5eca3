"""The elements of a JSON array one at a time: what is held is a chunk of the file, or one element where that is larger. Torch-free."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from data.errors import DataError

CHUNK = 2**20
LARGEST = 2**28
"""Characters of one value that are read at most: 256 MiB of ASCII."""

_BLANK, _BETWEEN = re.compile(r"\s*"), re.compile(r"[\s,]*")
_TAIL = 16
"""Characters: no number's or literal's fragment, and no escape's, at which a text may have been cut is longer."""


class JsonText:
    """A file's text from the value on that is being read. Raises UnicodeDecodeError where bytes that are not UTF-8 are reached."""

    def __init__(self, file: BinaryIO, name: str, chunk: int = CHUNK) -> None:
        self._file, self._name, self._chunk = file, name, chunk
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._broken: UnicodeDecodeError | None = None
        self._ended = False
        self._text, self._place = "", 0
        self._read(max(chunk, 4))  # a byte-order mark has three bytes
        self._text = self._text.removeprefix("\ufeff")

    def first(self) -> str:
        """The first character that is not blank; empty if there is none. It is not consumed."""
        return self._past(_BLANK)

    def whole(self) -> str:
        """All of the text. Raises DataError if it is larger than one value may be."""
        while not self._ended:
            self._more("it is no array")
        return self._text

    def elements(self) -> Iterator[tuple[Any, str]]:
        """Each element of the array that begins here, and its text. Raises json.JSONDecodeError, whose `doc` begins with the broken element, and
        DataError if the array is cut short, or is not all that the file holds."""
        self._place += 1
        count = 0
        while (sign := self._past(_BETWEEN)) != "]":
            if not sign:
                raise self._cut_short(count)
            count += 1
            value, end = self._value(count)
            yield value, self._text[self._place : end]
            self._place = end
        self._place += 1
        if self._past(_BLANK):
            found = self._text[self._place : self._place + 60]
            raise DataError(
                f"{self._name}: the JSON array ends after row {count}, and is followed by {found!r}; wanted one array, or JSON Lines, one object a line"
            )

    def _past(self, pattern: re.Pattern[str]) -> str:
        """The character behind what the pattern takes; empty at the end."""
        while True:
            self._place = pattern.match(self._text, self._place).end()  # type: ignore[union-attr]  # an empty match always exists
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._read(self._chunk)

    def _value(self, number: int) -> tuple[Any, int]:
        """The value that begins here, and where it ends."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._place)
                if len(self._text) - end >= _TAIL or self._ended:  # else a number may go on
                    return value, end
            except json.JSONDecodeError as error:
                if self._ended and not self._text.rstrip().endswith("]"):
                    raise self._cut_short(number - 1) from error
                if self._ended or not self._may_be_cut(error):
                    raise json.JSONDecodeError(error.msg, self._text[self._place : self._place + 200], 0) from error
            self._more(f"row {number} begins there and does not end")

    def _cut_short(self, count: int) -> DataError:
        return DataError(f"{self._name}: the JSON array is cut short after row {count}; wanted a closing ']'")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the rest of the file may mend it."""
        return error.msg.startswith("Unterminated string") or len(self._text[error.pos :].rstrip()) < _TAIL

    def _more(self, why: str) -> None:
        """As much again as is held, so that a large value is tried a few times and not once a chunk."""
        held = len(self._text) - self._place
        if held > LARGEST:
            raise DataError(
                f"{self._name}: {held >> 20:,} MiB of one JSON value were read ({why}), which is too much to hold; "
                "wanted JSON Lines, one object a line, or an array of objects (`jq -c '.[]' FILE > FILE.jsonl` writes lines)"
            )
        self._read(max(self._chunk, held))

    def _read(self, size: int) -> None:
        if self._broken is not None:
            raise self._broken
        data = self._file.read(size)
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            self._broken = error
            text = error.object[: error.start].decode("utf-8")
        self._text, self._place = self._text[self._place :] + text, 0
