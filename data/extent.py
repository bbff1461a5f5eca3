"""How much the records of a source are, without a tokenizer: what a check can say of splits, lengths and steps. Imports nothing but the records."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.formats import Chat, Message, Preference, Prompt, Record, Text


@dataclass
class Extent:
    """Measures of records, added one by one: two numbers a record are held."""

    characters: int = 0
    key: str | None = None
    """Content of the first record, by which it is split."""
    differs: bool = False
    """Whether another record has another content."""
    whole: "array[int]" = field(default_factory=lambda: array("L"))
    """Words of each record that a model reads as one sequence; of a pair, those of the longer conversation."""
    least: "array[int]" = field(default_factory=lambda: array("L"))
    """The same without the turns that can be dropped where it is too long."""
    margins: int = 0
    """Pairs that state a margin."""
    lowest_margin: float = 0.0
    references: int = 0
    """Prompts with a reference."""
    is_text: bool = False
    """Whether the records are documents, of which one may be as long as a book."""
    is_complete: bool = True
    """Whether all records were seen."""

    @property
    def records(self) -> int:
        return len(self.whole)

    def add(self, record: Record, key: str | None) -> None:
        """`key` is the record's content; it need not be told once two differ."""
        whole, least = parts_of(record)
        self.characters += sum(map(len, whole))
        self.is_text |= isinstance(record, Text)
        self.whole.append(words_in(whole))
        self.least.append(words_in(least) if len(least) < len(whole) else self.whole[-1])
        if isinstance(record, Preference) and record.margin is not None:
            self.margins += 1
            self.lowest_margin = min(self.lowest_margin, record.margin)
        self.references += isinstance(record, Prompt) and record.reference is not None
        if key is not None:
            self.differs |= self.key is not None and key != self.key
            self.key = key


def parts_of(record: Record) -> tuple[list[str], list[str]]:
    """Texts of the longest sequence of a record, and those that stay when it is shortened as `data.chat` does."""
    if isinstance(record, Text):
        return [record.text], []
    if isinstance(record, Chat):  # loses turns from its end
        first = next((place for place, message in enumerate(record.messages) if message["role"] == "assistant"), len(record.messages))
        return _said(record.messages), _said(record.messages[: first + 1])
    answers: list[list[Message]] = [record.chosen, record.rejected] if isinstance(record, Preference) else [[]]
    prompt = record.prompt if isinstance(record, Preference) else record.messages
    answer = max((_said(answer) for answer in answers), key=lambda texts: sum(map(len, texts)))
    return _said(prompt) + answer, _said(_last_exchange(prompt)) + answer


def _last_exchange(messages: Sequence[Message]) -> list[Message]:
    """System prompts, and all from the last user turn on: what is left when the oldest turns are dropped."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=0)
    return [message for place, message in enumerate(messages) if place >= last or message["role"] == "system"]


def _said(messages: Sequence[Message]) -> list[str]:
    return [str(message["content"]) for message in messages]


def words_in(texts: Sequence[str]) -> int:
    """Words between white space. Nearly every tokenizer splits there, so that a text has at least as many tokens."""
    return sum(len(text.split()) for text in texts)


def joined(extents: Sequence[Extent]) -> Extent:
    """Several sources as one."""
    whole = Extent(is_complete=all(extent.is_complete for extent in extents))
    for extent in extents:
        whole.characters += extent.characters
        whole.whole += extent.whole
        whole.least += extent.least
        whole.margins += extent.margins
        whole.lowest_margin = min(whole.lowest_margin, extent.lowest_margin)
        whole.references += extent.references
        whole.is_text |= extent.is_text
        whole.differs |= extent.differs or (whole.key is not None and extent.key is not None and whole.key != extent.key)
        whole.key = whole.key if whole.key is not None else extent.key
    return whole
