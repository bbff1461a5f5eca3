"""What plots are drawn from: every answer's reward, and what the best of n answers of the baseline reaches. For programs; `table.json` has the means."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.statistics import best_of_kl
from stages.evaluate.family import Member
from stages.evaluate.marks import Marks, best_of_curve

MOST = 2_000
"""Rewards of one model in one exam that are kept, evenly spread over the prompts."""


def points(marks: Mapping[str, Sequence[Marks]], baseline: Member, best_of: int, seed: int) -> dict[str, Any]:
    """By exam: rewards of each model's sampled answers, and the curve of best-of-n: its KL bound in nats, reward and truth."""
    return {
        "baseline": baseline.name,
        "exams": [_exam(number, marks, baseline, best_of, seed) for number, marked in enumerate(marks[baseline.name]) if marked.rewards],
    }


def _exam(number: int, marks: Mapping[str, Sequence[Marks]], baseline: Member, best_of: int, seed: int) -> dict[str, Any]:
    marked = marks[baseline.name][number]
    curve = best_of_curve(baseline, marked, seed) if best_of > 1 else None
    steps = list(curve.rewards) if curve else []
    return {
        "name": marked.paper.exam.task.name,
        "truth": marked.truth,
        "rewards": {name: _kept(one[number].rewards[0].total.tolist()) for name, one in marks.items()},
        "best_of": {
            "n": steps,
            "kl": [best_of_kl(n) for n in steps],
            "reward": [curve.rewards[n].mean for n in steps] if curve else [],
            "truth": [curve.truths[n].mean for n in steps] if curve else [],
        },
    }


def _kept(rewards: list[float]) -> list[float]:
    every = -(-len(rewards) // MOST) or 1
    return [round(reward, 4) for reward in rewards[::every]]
