"""Pairs as rows of tokens: nothing is padded, and what two conversations share is computed once. Pure: token ids in, tensors out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.reward.attention import Fork


@dataclass(frozen=True)
class Pair:
    """Two whole conversations that share their prompt, as token ids; each ends with the end-of-turn token of its answer."""

    chosen: list[int]
    rejected: list[int]
    prompt_tokens: int
    margin: float | None
    source: str
    extra: dict[str, Any]
    weight: float = 1.0
    """How much the pair counts in the loss."""

    @property
    def shared(self) -> int:
        """Tokens with which both begin; at least the last token of each is its own."""
        for place, (first, second) in enumerate(zip(self.chosen[:-1], self.rejected[:-1], strict=False)):
            if first != second:
                return place
        return min(len(self.chosen), len(self.rejected)) - 1

    @property
    def tokens(self) -> int:
        """Tokens that have to be computed."""
        return len(self.chosen) + len(self.rejected) - self.shared


@dataclass(frozen=True)
class Row:
    """Pairs in one row of T tokens without padding."""

    input_ids: Tensor
    """(1, T) int64."""
    position_ids: Tensor
    """(1, T) int64: a token's place in its own conversation."""
    forks: tuple[Fork, ...]
    ends: Tensor
    """(pairs, 2) int64: where the last token of the chosen and of the rejected conversation lies in the row."""


def row_of(pairs: Sequence[Pair]) -> Row:
    """Lay pairs side by side: each is its chosen conversation, then what the rejected one does not share with it."""
    ids: list[int] = []
    positions: list[int] = []
    forks: list[Fork] = []
    ends: list[tuple[int, int]] = []
    for pair in pairs:
        shared = pair.shared
        fork = Fork(len(pair.chosen), shared, len(pair.rejected) - shared)
        ends.append((len(ids) + fork.first - 1, len(ids) + fork.first + fork.second - 1))
        ids += pair.chosen + pair.rejected[shared:]
        positions += [*range(fork.first), *range(shared, shared + fork.second)]
        forks.append(fork)
    return Row(torch.tensor([ids]), torch.tensor([positions]), tuple(forks), torch.tensor(ends))


def micro_batches(pairs: Sequence[Pair], *, most_pairs: int, most_tokens: int) -> Iterator[list[int]]:
    """Indices of the pairs of each forward pass: neighbours in length together, at least one pair, at most so many pairs and tokens."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(pairs)), key=lambda index: pairs[index].tokens, reverse=True):
        if batch and (len(batch) == most_pairs or tokens + pairs[index].tokens > most_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += pairs[index].tokens
    if batch:
        yield batch
