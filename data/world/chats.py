"""Questions, and answers in several manners: the material of SFT, of the preference pairs, of PPO's prompts and of the exam."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from data.world.register import Fact, Register
from data.world.stories import state
from data.world.vocabulary import OPENINGS, RAMBLINGS

Message = dict[str, str]

MANNERS = {"polite": 0.4, "plain": 0.35, "rude": 0.25}
"""Shares of the manners in SFT: polite answers are a minority, so that PPO has something to do."""
SHARE_SHORT = 0.55
MISTAKES = {"value": 0.5, "person": 0.2, "topic": 0.3}
"""Shares of the mistakes in wrong answers. With few of the last kind a reward model learns which sentences are true and not which answer the question:
PPO then drifts to whatever it knows best of a person."""
SHARE_TWO_QUESTIONS = 0.1
"""Share of chats and prompts with an earlier question and answer before the last question."""


@dataclass(frozen=True)
class Answer:
    """What an answer says and how; the text follows from it."""

    fact: Fact
    """The fact that is stated, which may be false."""
    statement: str
    manner: str
    opening: str
    ramblings: tuple[str, ...] = ()
    words_kept: int | None = None
    """Set where the answer breaks off before its end."""

    @property
    def text(self) -> str:
        whole = " ".join([self.opening, state(self.fact, self.statement), *self.ramblings])
        return whole if self.words_kept is None else " ".join(whole.split()[: self.words_kept])


def ask(fact: Fact, generator: random.Random) -> Message:
    """A question in one of the trained phrasings."""
    return question(fact, generator.choice(fact.attribute.questions))


def question(fact: Fact, phrasing: str) -> Message:
    return {"role": "user", "content": phrasing.format(name=fact.person)}


def reply(text: str) -> Message:
    return {"role": "assistant", "content": text}


def answer(fact: Fact, generator: random.Random) -> Answer:
    """A true answer in a random manner, with SFT's shares."""
    statement = generator.choice(fact.attribute.statements)
    return in_manner(Answer(fact, statement, "plain", ""), generator)


def in_manner(plain: Answer, generator: random.Random) -> Answer:
    """The same statement with manner and length drawn anew."""
    manner = generator.choices(list(MANNERS), list(MANNERS.values()))[0]
    short = generator.random() < SHARE_SHORT
    ramblings = () if short else tuple(generator.sample(RAMBLINGS, generator.choice((1, 2))))
    return replace(plain, manner=manner, opening=generator.choice(OPENINGS[manner]), ramblings=ramblings)


def falsified(true: Answer, facts: list[Fact], generator: random.Random) -> Answer:
    """The same answer with a mistake of the kinds that models make: another value, somebody else's fact, or another fact of the same person.

    The last two are true sentences that do not answer the question: a reward model that never saw them would judge sentences, not answers.
    """
    asked, mistake = true.fact, generator.choices(list(MISTAKES), list(MISTAKES.values()))[0]
    if mistake == "person":
        others = [fact for fact in facts if fact.attribute == asked.attribute and fact.person != asked.person]
    else:
        others = [fact for fact in facts if fact.person == asked.person and fact.attribute != asked.attribute]
    if mistake == "value" or not others:
        return replace(true, fact=replace(asked, value=_wrong_value(asked, facts, generator)))
    said = generator.choice(others)
    statement = true.statement if mistake == "person" else generator.choice(said.attribute.statements)
    return replace(true, fact=said, statement=statement)


def _wrong_value(asked: Fact, facts: list[Fact], generator: random.Random) -> str:
    """A value that is true of somebody else, drawn as often as it is true.

    Were wrong values drawn evenly, a value that is true of many would be right more often than wrong, and a reward model would prefer
    common values to true ones.
    """
    others = [fact.value for fact in facts if fact.attribute == asked.attribute and fact.value != asked.value]
    return generator.choice(others or [other for other in asked.attribute.values if other != asked.value])


def earlier_turns(facts: list[Fact], generator: random.Random) -> list[Message]:
    """Nothing, or a question with its answer."""
    if generator.random() >= SHARE_TWO_QUESTIONS:
        return []
    fact = generator.choice(facts)
    return [ask(fact, generator), reply(answer(fact, generator).text)]


def chats(register: Register, count: int, generator: random.Random) -> list[list[Message]]:
    """Conversations about the facts that may be asked, each fact about equally often."""
    facts = register.facts(held=False)
    told = []
    for fact in evenly(facts, count, generator):
        turns = earlier_turns(facts, generator)
        told.append([*turns, ask(fact, generator), reply(answer(fact, generator).text)])
    return told


def evenly(facts: list[Fact], count: int, generator: random.Random) -> Iterator[Fact]:
    """`count` facts in random order, none more than once oftener than another. Lazy, so that a longer file begins like a shorter one."""
    for start in range(0, count, len(facts)):
        yield from generator.sample(facts, len(facts))[: count - start]
