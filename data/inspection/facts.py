"""What is counted over the views of one part, and the verdicts that follow from the counts. Pure: token ids in, sentences out."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from data.chat import Tokens
from data.formats import Preference, Record, Text
from data.inspection.report import Wanted
from data.inspection.views import Lens, View
from data.verdicts import Verdict


@dataclass(frozen=True)
class Marks:
    """The ids that verdicts ask about."""

    ends: frozenset[int]
    """Those that end an answer or a document."""
    bos: int | None = None
    unknown: int | None = None
    special_words: tuple[str, ...] = ()
    """How special tokens are spelled."""


@dataclass
class Facts:
    """Counts over the views of one part."""

    marks: Marks
    lengths: list[int] = field(default_factory=list)
    """Of every sequence."""
    sizes: list[int] = field(default_factory=list)
    """Of every viewed record, all its sequences together."""
    places: list[int] = field(default_factory=list)
    """Which record each of `sizes` is."""
    learned: int = 0
    unlearned_sequences: int = 0
    """Sequences in which nothing is learned."""
    answers: int = 0
    """Stretches of learned tokens."""
    ended: int = 0
    """Those that close with the token that ends an answer."""
    double_bos: int = 0
    unknown: int = 0
    """Tokens that stand for what the tokenizer cannot write."""
    spelled: int = 0
    """Records whose own words spell a special token."""
    shared: int = 0
    """Tokens that both conversations of a pair begin with."""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def add(self, view: View, record: Record) -> None:
        self.places.append(view.place)
        self.sizes.append(sum(len(tokens.ids) for tokens in view.sequences))
        for tokens in view.sequences:
            self._sequence(tokens)
        self.spelled += any(word in text for text in words_of(record) for word in self.marks.special_words)
        if len(view.sequences) == 2:
            self.shared += shared_prefix(view.sequences[0].ids, view.sequences[1].ids)

    def _sequence(self, tokens: Tokens) -> None:
        self.lengths.append(len(tokens.ids))
        self.learned += sum(tokens.learn)
        self.unlearned_sequences += not any(tokens.learn)
        last = 0
        for learned, run in groupby(tokens.learn):
            last += len(list(run))
            if learned:
                self.answers += 1
                self.ended += tokens.ids[last - 1] in self.marks.ends
        bos = self.marks.bos
        self.double_bos += bos is not None and bos not in self.marks.ends and tokens.ids[:2] == [bos, bos]
        self.unknown += tokens.ids.count(self.marks.unknown) if self.marks.unknown is not None else 0


def words_of(record: Record) -> Iterator[str]:
    """Everything that people said in a record."""
    if isinstance(record, Text):
        yield record.text
        return
    messages = [*record.prompt, *record.chosen, *record.rejected] if isinstance(record, Preference) else record.messages
    yield from (str(message["content"]) for message in messages)


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))


def verdicts_of(facts: Facts, lens: Lens, wants: Wanted) -> list[Verdict]:
    """What is wrong with the views of a part."""
    found = [*_of_rendering(lens), *_of_fit(facts, lens, wants), *_of_tokens(facts)]
    return [*found, *_of_learning(facts, wants)] if facts.lengths else found


def _of_rendering(lens: Lens) -> Iterable[Verdict]:
    if lens.lost_system:
        yield Verdict("error", "system-lost", f"the chat template does not write the system prompt of {_records(lens.lost_system)}")
    if lens.refused:
        yield Verdict("error", "refused", f"{lens.refused[0]} ({_records(len(lens.refused))} cannot be rendered)")


def _of_fit(facts: Facts, lens: Lens, wants: Wanted) -> Iterable[Verdict]:
    total = len(facts.sizes) + lens.dropped
    if lens.shortened:
        yield Verdict(
            "warning",
            "truncated",
            f"{lens.shortened:,} of {total:,} chats lose whole turns from their end to fit into {lens.context} tokens",
        )
    if lens.dropped:
        text = f"{lens.dropped:,} of {total:,} chats are left out: no answer in them fits or is learned"
        yield Verdict("error" if not facts.sizes else "warning", "left-out", text)
    bound = {"preference": lens.context, "prompt": lens.room}.get(wants)
    long = sum(length > bound for length in facts.lengths) if bound is not None else 0
    if long:
        text = (
            f"{long:,} of {len(facts.lengths):,} sequences are longer than {bound:,} tokens: they lose their oldest turns, or are left out"
        )
        yield Verdict("warning", "truncated", text)


def _of_tokens(facts: Facts) -> Iterable[Verdict]:
    if facts.double_bos:
        yield Verdict("error", "double-bos", f"{facts.double_bos:,} of {len(facts.lengths):,} sequences begin with BOS twice")
    if facts.unknown:
        text = f"{facts.unknown:,} tokens stand for characters that the tokenizer does not know ({facts.unknown / facts.tokens:.2%})"
        yield Verdict("warning", "unknown-tokens", text)
    if facts.spelled:
        text = f"the words of {_records(facts.spelled)} spell a special token of the tokenizer, and are read as one"
        yield Verdict("warning", "special-words", text)


def _of_learning(facts: Facts, wants: Wanted) -> Iterable[Verdict]:
    if wants == "prompt":
        return
    if not facts.learned:
        yield Verdict("error", "nothing-learned", "the share learned is 0 %: training would change nothing")
        return
    if wants != "text" and facts.learned == facts.tokens:
        yield Verdict(
            "error", "everything-learned", "the share learned is 100 %: the words of users are learned like those of the assistant"
        )
    if facts.unlearned_sequences:
        text = f"nothing is learned in {facts.unlearned_sequences:,} of {len(facts.lengths):,} sequences"
        yield Verdict("warning", "nothing-learned", text)
    never = facts.answers - facts.ended
    if never == facts.answers:
        yield Verdict("error", "end-not-learned", "the token that ends an answer is never learned: the model would never stop")
    elif never:
        text = f"{never:,} of {facts.answers:,} answers do not end with a learned end token: the model learns to go on there"
        yield Verdict("warning", "end-not-learned", text)


def _records(count: int) -> str:
    return f"{count:,} record{'s' if count > 1 else ''}"


def special_words(spelled: Iterable[str]) -> tuple[str, ...]:
    """Special tokens that people do not write by chance; `-` or `the` may be special too, and then say nothing."""
    return tuple(sorted(word for word in spelled if re.fullmatch(r"\W+\w.*\W", word)))
