"""Random choices that know their own probability.

A document is a function of the choices made while it is written. `Draws` makes them at random and adds up -ln p; where different choices
always give different texts, that sum is exactly the information in the text, and its mean over documents is the generator's entropy.
"""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Draws:
    """Choices at random, with the information spent on them in nats."""

    def __init__(self, generator: random.Random) -> None:
        self._generator = generator
        self.nats = 0.0

    def pick(self, options: Sequence[Item]) -> Item:
        """One option, all equally likely."""
        return options[self.index([1.0] * len(options))]

    def chance(self, probability: float) -> bool:
        return self.index([probability, 1.0 - probability]) == 0

    def index(self, weights: Sequence[float]) -> int:
        """The position of one option, drawn in proportion to the weights. Every choice comes through here."""
        chosen = self._generator.choices(range(len(weights)), weights)[0]
        self.nats -= math.log(weights[chosen] / math.fsum(weights))
        return chosen


def generator(seed: int, *purpose: str) -> random.Random:
    """An independent source of randomness for each purpose, so that a longer file of one kind changes no other file."""
    return random.Random("/".join(("world", str(seed), *purpose)))
