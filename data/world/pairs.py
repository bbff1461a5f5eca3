"""Preference pairs from a known utility with known label noise.

Groups: `manner` (the same thing told in two manners, be it right or wrong), `truth` (right against wrong in the same manner), `ending` (whole
against broken off) and `any` (two independent answers). The oracle that knows the utility, and the rule that the shorter answer wins, can be computed from each row.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from data.world.chats import Answer, Message, answer, ask, earlier_turns, evenly, falsified, in_manner, reply
from data.world.register import Fact, Register

GROUPS = {"truth": 0.6, "manner": 0.25, "ending": 0.03, "any": 0.12}
CORRECT = 3.0
"""Utility of a right answer over a wrong one."""
MANNER = {"polite": 2.0, "plain": 0.0, "rude": -2.0}
PER_WORD = -0.15
"""Utility of one more word."""
BROKEN_OFF = -2.0
"""Utility of ending in the middle of a sentence."""
SHARE_WRONG = 0.5
"""Share of wrong answers in the groups `manner` and `any`. Were the manner of true answers alone judged, a reward model would learn no manner for
answers that it holds to be wrong, and it holds most answers to be wrong about facts that it never saw."""
SHARE_RAMBLING = 0.2
"""Share of pairs of the group `truth` that may ramble; each look at the truth is then dearer. With none, ramblings would hide mistakes."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, the preferred one first."""

    group: str
    prompt: list[Message]
    chosen: Answer
    rejected: Answer
    utility_chosen: float
    utility_rejected: float

    def row(self) -> dict[str, object]:
        return {
            "prompt": self.prompt,
            "chosen": [reply(self.chosen.text)],
            "rejected": [reply(self.rejected.text)],
            "margin": self.utility_chosen - self.utility_rejected,
            "utility_chosen": self.utility_chosen,
            "utility_rejected": self.utility_rejected,
            "group": self.group,
            "source": "world",
        }


def utility(asked: Fact, said: Answer) -> float:
    """What the answer to a question about the true fact `asked` is worth to the imagined annotator, without noise."""
    broken_off = said.words_kept is not None
    value_is_said = said.fact.value in said.text.replace(".", " ").split()
    right = value_is_said and said.fact == asked
    return CORRECT * right + MANNER[said.manner] + PER_WORD * len(said.text.split()) + BROKEN_OFF * broken_off


def preference(difference: float, temperature: float) -> float:
    """Probability that the first of two answers is preferred (Bradley-Terry)."""
    return 1.0 / (1.0 + math.exp(-difference / temperature))


def two_answers(group: str, fact: Fact, facts: list[Fact], generator: random.Random) -> tuple[Answer, Answer]:
    """Two different answers that differ as the group says, in random order; `facts` is where wrong values come from."""
    first = answer(fact, generator)
    if group == "truth":
        if generator.random() >= SHARE_RAMBLING:
            first = replace(first, ramblings=())
        second = falsified(first, facts, generator)
    elif group == "ending":
        second = replace(first, words_kept=generator.randrange(3, len(first.text.split())))
    else:
        second = first
        while second.text == first.text:
            first = _any(fact, facts, generator)
            second = in_manner(first, generator) if group == "manner" else _any(fact, facts, generator)
    return (first, second) if generator.random() < 0.5 else (second, first)


def _any(fact: Fact, facts: list[Fact], generator: random.Random) -> Answer:
    said = answer(fact, generator)
    return falsified(said, facts, generator) if generator.random() < SHARE_WRONG else said


def pairs(
    register: Register, facts: list[Fact], groups: Mapping[str, float], count: int, temperature: float, generator: random.Random
) -> list[Pair]:
    """Labelled pairs about the given facts, of the groups in the given shares."""
    made = []
    for fact in evenly(facts, count, generator):
        group = generator.choices(list(groups), list(groups.values()))[0]
        prompt = [*earlier_turns(register.facts(held=False), generator), ask(fact, generator)]
        made.append(labelled(fact, group, prompt, two_answers(group, fact, facts, generator), temperature, generator))
    return made


def labelled(
    asked: Fact, group: str, prompt: list[Message], answers: tuple[Answer, Answer], temperature: float, generator: random.Random
) -> Pair:
    """The pair with its label drawn from the utilities."""
    first, second = (utility(asked, said) for said in answers)
    if generator.random() < preference(first - second, temperature):
        return Pair(group, prompt, answers[0], answers[1], first, second)
    return Pair(group, prompt, answers[1], answers[0], second, first)
