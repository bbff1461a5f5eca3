"""Answers in every form that a reward may want, and what rewards say of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from stages.core.generation import Completion


@dataclass(frozen=True)
class Answers:
    """B answers."""

    prompts: Sequence[list[dict[str, Any]]]
    """Messages."""
    prompt_ids: Sequence[Sequence[int]]
    completions: Sequence[Completion]
    texts: Sequence[str]
    """What the answers say, without their end tokens."""
    references: Sequence[Any]


class Scores(NamedTuple):
    total: np.ndarray
    """Weighted sum of the parts: (B) float64."""
    parts: dict[str, np.ndarray]
    """Each part by its name, before its weight, and what rules grade beside their score: (B) float64 each."""
    clipped: np.ndarray | None = None
    """True where a part with a weight was beyond its clip: (B)."""


class Scorer(Protocol):
    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        """(B) float64 by name; the score is called '' and what is only shown by another name."""
        ...
