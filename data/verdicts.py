"""What records alone tell about themselves, without a tokenizer: turns that are empty, answers cut short, pairs that teach nothing or the wrong thing.

A `Tally` looks at one record after another at constant memory; `pipeline check`, every stage and `pipeline inspect` share it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from data.formats import Chat, Message, Preference, Prompt, Record, Text

LONGER_SHARE = 0.6
"""Pairs of which one side is the longer one, from which on length alone predicts the label."""
LONG_ANSWER = 200
"""Characters from which on an answer is expected to end like a sentence."""
CUT_SHARE = 0.1
"""Long answers that break off, from which on it is no accident."""


@dataclass(frozen=True)
class Verdict:
    """One thing that is wrong with data (`error`) or looks wrong (`warning`)."""

    level: Literal["error", "warning"]
    name: str
    """The same for every data set: `identical-pairs`."""
    text: str


@dataclass
class Tally:
    """Counts over records."""

    records: int = 0
    chats: int = 0
    silent: int = 0
    """Chats with an empty answer."""
    hollow: int = 0
    """Records with an empty turn of somebody else."""
    blank: int = 0
    """Documents or prompts without a word."""
    unanswered: int = 0
    long_answers: int = 0
    cut_answers: int = 0
    pairs: int = 0
    identical: int = 0
    empty_chosen: int = 0
    longer: int = 0
    shorter: int = 0

    def add(self, record: Record) -> None:
        self.records += 1
        if isinstance(record, Text):
            self.blank += not record.text.strip()
            return
        messages = record.prompt if isinstance(record, Preference) else record.messages
        self.hollow += any(message["role"] != "assistant" and _is_blank(message) for message in messages)
        if isinstance(record, Chat):
            self._chat(record.messages)
        elif isinstance(record, Preference):
            self._pair(record)
        elif isinstance(record, Prompt):
            self.blank += all(_is_blank(message) for message in messages)

    def _chat(self, messages: Sequence[Message]) -> None:
        self.chats += 1
        self.silent += any(_is_silent(message) for message in messages)
        self.unanswered += messages[-1]["role"] != "assistant"
        self._answer(messages[-1])

    def _pair(self, pair: Preference) -> None:
        self.pairs += 1
        self.identical += pair.chosen == pair.rejected
        self.empty_chosen += _is_silent(pair.chosen[-1])
        chosen, rejected = _size(pair.chosen), _size(pair.rejected)
        self.longer += chosen > rejected
        self.shorter += chosen < rejected
        self._answer(pair.chosen[-1])

    def _answer(self, message: Message) -> None:
        words = str(message["content"]).rstrip()
        if message["role"] == "assistant" and len(words) >= LONG_ANSWER:
            self.long_answers += 1
            self.cut_answers += breaks_off(words)

    def verdicts(self) -> list[Verdict]:
        return [*self._of_turns(), *self._of_pairs()]

    def _of_turns(self) -> Iterable[Verdict]:
        if self.silent:
            yield Verdict(
                "warning", "empty-answers", f"{self.silent:,} of {self.chats:,} chats hold an empty answer, which teaches silence"
            )
        if self.hollow:
            yield Verdict("warning", "empty-turns", f"{self.hollow:,} of {self.records:,} records hold an empty turn before the answer")
        if self.blank:
            yield Verdict("warning", "empty-records", f"{self.blank:,} of {self.records:,} records hold no words")
        if self.unanswered:
            text = f"{self.unanswered:,} of {self.chats:,} chats end with a turn that nobody answers; it is read and never learned from"
            yield Verdict("warning", "unanswered", text)
        if self.cut_answers > 2 and self.cut_answers >= CUT_SHARE * self.long_answers:
            text = f"{self.cut_answers:,} of {self.long_answers:,} long answers seem to break off in the middle of a sentence, which teaches to break off"
            yield Verdict("warning", "truncated-answers", text)

    def _of_pairs(self) -> Iterable[Verdict]:
        if self.identical:
            level: Literal["error", "warning"] = "error" if self.identical == self.pairs else "warning"
            text = f"{self.identical:,} of {self.pairs:,} pairs have identical answers and teach nothing"
            yield Verdict(level, "identical-pairs", text)
        if self.empty_chosen:
            yield Verdict("warning", "empty-chosen", f"{self.empty_chosen:,} of {self.pairs:,} chosen answers are empty")
        for side, count in (("chosen", self.longer), ("rejected", self.shorter)):
            share = count / self.pairs if self.pairs else 0.0
            if share >= LONGER_SHARE:
                text = f"the {side} answer is the longer one in {share:.0%} of pairs: length alone predicts it"
                yield Verdict("warning", "length-bias", text)


def tallied(records: Iterable[Record]) -> Tally:
    """The counts of many records."""
    tally = Tally()
    for record in records:
        tally.add(record)
    return tally


def breaks_off(words: str) -> bool:
    """Whether a text seems to end inside a sentence: with a comma, or with a letter or digit in a last line of prose. A hint, not a proof."""
    last = words[-1]
    if last == ",":
        return True
    line = words.rsplit("\n", 1)[-1].lstrip()
    listed = line.startswith(("-", "*", "•", "|", "#", ">")) or line[:1].isdigit()
    address = any(sign in words.rsplit(None, 1)[-1] for sign in "/#@")
    return last.isalnum() and last.isascii() and not listed and not address and len(line) > 40


def _is_blank(message: Message) -> bool:
    return not str(message["content"]).strip() and not message.get("tool_calls")


def _is_silent(message: Message) -> bool:
    return message["role"] == "assistant" and _is_blank(message)


def _size(messages: Sequence[Message]) -> int:
    return sum(len(str(message["content"])) for message in messages)
