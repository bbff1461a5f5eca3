"""Which of a prompt's answers are kept. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Drawn:
    """One answer."""

    text: str
    finished: bool
    reward: float


def chosen(answers: Sequence[Drawn], *, keep: int, least: float | None = None, unfinished: bool = False) -> list[Drawn]:
    """At most `keep` answers of different texts, the best first (of equal rewards, the one drawn first); none that are empty."""
    good = [
        answer
        for answer in answers
        if answer.text.strip() and (unfinished or answer.finished) and (least is None or answer.reward >= least)
    ]
    best_first = sorted(good, key=lambda answer: -answer.reward)
    by_text = {answer.text: answer for answer in reversed(best_first)}  # of equal texts the first stays
    return [answer for answer in best_first if by_text[answer.text] is answer][:keep]
