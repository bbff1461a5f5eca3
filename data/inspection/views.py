"""Records as the model sees them: token ids, and what of them is learned. The same rendering as in the stages, one code path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from data.chat import Learn, Tokens, render, render_all, render_prompt
from data.errors import DataError
from data.formats import Chat, Message, Preference, Prompt, Record, Text
from data.inspection.report import Run, Said
from data.shape import rendered
from data.tokens import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 1_000
SHOWN = 1_500
"""Tokens of a sample that are shown at most."""


@dataclass(frozen=True)
class View:
    """A record's sequences: one, or of a pair the chosen and the rejected conversation."""

    place: int
    """Which record."""
    sequences: tuple[Tokens, ...]


@dataclass
class Lens:
    """Turns records into views, and counts what does not come out whole."""

    tokenizer: "PreTrainedTokenizerFast"
    context: int | None
    """Longest chat or document."""
    room: int | None
    """Longest prompt."""
    learn: Learn = "all"
    shortened: int = 0
    """Chats that lost turns from their end."""
    dropped: int = 0
    """Chats with no answer that fits or is learned."""
    refused: list[str] = field(default_factory=list)
    """Why the template or the mask refused, a sentence for each record."""
    lost_system: int = 0
    """Records whose system prompt the template does not write."""

    def views(self, records: Sequence[Record]) -> Iterator[View]:
        """Views of the records that can be rendered, in order, in batches."""
        for begin in range(0, len(records), BATCH):
            batch = records[begin : begin + BATCH]
            for place, sequences in self._batch(batch):
                yield View(begin + place, sequences)

    def _batch(self, records: Sequence[Record]) -> Iterator[tuple[int, tuple[Tokens, ...]]]:
        """Records of one kind, as all of a part are."""
        if isinstance(records[0], Text):
            texts = [record.text for record in records if isinstance(record, Text)]
            for place, ids in enumerate(encode_texts(self.tokenizer, texts)):
                whole = ids.tolist()
                yield place, (Tokens(whole, [False, *[True] * (len(whole) - 1)]),)
        elif isinstance(records[0], Chat):
            chats = [record for record in records if isinstance(record, Chat)]
            for place, tokens in self._rendered(chats, self.learn, self.context).items():
                yield place, (tokens,)
        elif isinstance(records[0], Preference):
            yield from self._pairs([record for record in records if isinstance(record, Preference)])
        else:
            yield from self._prompts([record for record in records if isinstance(record, Prompt)])

    def _pairs(self, pairs: Sequence[Preference]) -> Iterator[tuple[int, tuple[Tokens, ...]]]:
        chats = [Chat(pair.prompt + answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
        tokens = self._rendered(chats, "last", None)
        for place in range(len(pairs)):
            if 2 * place in tokens and 2 * place + 1 in tokens:
                yield place, (tokens[2 * place].ended(), tokens[2 * place + 1].ended())

    def _prompts(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, tuple[Tokens, ...]]]:
        for place, prompt in enumerate(prompts):
            try:
                ids = render_prompt(self.tokenizer, prompt.messages)
            except DataError as error:
                self._refuse(prompt.messages, error)
                continue
            self.lost_system += self._loses_system(prompt.messages, prompt=True)
            yield place, (Tokens(list(ids), [False] * len(ids)),)

    def _rendered(self, chats: Sequence[Chat], learn: Learn, max_tokens: int | None) -> dict[int, Tokens]:
        """Chats by their places, without those that are refused or hold nothing to learn."""
        places = list(range(len(chats)))
        try:
            found = render_all(self.tokenizer, chats, learn=learn, max_tokens=max_tokens)
        except DataError:  # some chat is refused: one by one, to see which
            places = [place for place in places if self._can_render(chats[place])]
            found = render_all(self.tokenizer, [chats[place] for place in places], learn=learn, max_tokens=max_tokens)
        self.shortened += found.shortened
        self.dropped += found.dropped
        return {places[kept]: tokens for kept, tokens in zip(found.kept, found.tokens, strict=True)}

    def _can_render(self, chat: Chat) -> bool:
        try:
            render(self.tokenizer, chat.messages, learn=self.learn, tools=chat.tools)
        except DataError as error:
            self._refuse(chat.messages, error)
            return False
        return True

    def _refuse(self, messages: Sequence[Message], error: DataError) -> None:
        self.refused.append(str(error))
        self.lost_system += self._loses_system(messages, prompt=False)

    def _loses_system(self, messages: Sequence[Message], *, prompt: bool) -> bool:
        system = [str(message["content"]).strip() for message in messages if message["role"] == "system"]
        if not system:
            return False
        try:
            text, _ = rendered(self.tokenizer, messages, prompt=prompt)
        except DataError:
            return False  # refused as a whole, which is told
        return not all(words in text for words in system)


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """Ids of tokens that no ordinary words become."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def shown(tokenizer: "PreTrainedTokenizerFast", tokens: Tokens, label: str = "") -> Said:
    """A sequence as runs of text, for eyes: learned or not, special or not."""
    special = special_ids(tokenizer)
    ids = tokens.ids[:SHOWN]
    sorts = [(learned, number in special) for number, learned in zip(ids, tokens.learn, strict=False)]
    runs, begin = [], 0
    for (learned, is_special), run in groupby(sorts):
        end = begin + len(list(run))
        runs.append(Run(text=_between(tokenizer, ids, begin, end), learned=learned, special=is_special))
        begin = end
    return Said(label=label, runs=tuple(runs), tokens=len(tokens.ids), left_out=len(tokens.ids) - len(ids))


def _between(tokenizer: Any, ids: list[int], begin: int, end: int) -> str:
    """Text of some tokens as it stands in the whole: alone, many tokenizers drop the blank before the first word."""
    before, whole = _decoded(tokenizer, ids[:begin]), _decoded(tokenizer, ids[:end])
    return whole[len(before) :] if whole.startswith(before) else _decoded(tokenizer, ids[begin:end])


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def spoken(record: Record, limit: int) -> tuple[Said, ...]:
    """A record without a tokenizer: who says what. Nothing is known then of what is learned."""
    if isinstance(record, Text):
        return (_said("", [("", record.text)], limit),)
    if isinstance(record, Preference):
        answers = (("chosen", record.chosen), ("rejected", record.rejected))
        return tuple(_said(label, _turns([*record.prompt, *answer]), limit) for label, answer in answers)
    return (_said("", _turns(record.messages), limit),)


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(str(message["role"]), str(message["content"])) for message in messages]


def _said(label: str, turns: Sequence[tuple[str, str]], limit: int) -> Said:
    runs: list[Run] = []
    left = limit
    for number, (role, words) in enumerate(turns):
        if role:
            runs.append(Run(text=f"{chr(10) if number else ''}{role}: ", special=True))
        runs.append(Run(text=words[: max(left, 0)]))
        left -= len(words)
    return Said(label=label, runs=tuple(runs), left_out=max(-left, 0))
