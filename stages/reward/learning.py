"""The Bradley-Terry objective on transformers' Trainer.

On Trainer and not on TRL's RewardTrainer: that one tokenises again, pads both conversations of a pair to one width and computes their prompt
twice. Ours gets the ids that PPO will score, in rows without padding, and divides by the pairs of the whole step.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer

from data.order import epoch_order
from stages.core.losses import pairwise_loss
from stages.core.seeds import seed_for
from stages.core.training import StageTraining
from stages.reward.rows import Pair, row_of


class Order(Dataset[Pair]):
    """`count` pairs, epoch after epoch, each in another order: a function of the seed alone, so that resuming needs no state."""

    def __init__(self, pairs: Sequence[Pair], *, count: int, seed: int) -> None:
        self._pairs, self._count, self._seed = pairs, count, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        epoch, place = divmod(index, len(self._pairs))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(len(self._pairs), seed_for(self._seed, "pairs"), epoch)
        return self._pairs[int(self._order[place])]

    def documents(self, index: int) -> list[int]:
        """Number of the pair at a place, counted from 0 in the order in which pairs were read."""
        self[index]
        return [int(self._order[index % len(self._pairs)])]

    def tokens(self, index: int) -> list[list[int]]:
        """Ids of its two conversations, the chosen one first."""
        pair = self[index]
        return [pair.chosen, pair.rejected]


def collate(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Pairs of one micro-batch as one forked row. `margins` (0 where a pair states none) and `weights` are (pairs,) float32."""
    row = row_of(pairs)
    margins = torch.tensor([pair.margin or 0.0 for pair in pairs], dtype=torch.float32)
    weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float32)
    ids = {"input_ids": row.input_ids, "position_ids": row.position_ids}
    return {**ids, "forks": row.forks, "ends": row.ends, "margins": margins, "weights": weights}


def smoothed_loss(scores_B2: Tensor, margins_B: Tensor | None, *, centre: float, smoothing: float) -> Tensor:
    """Bradley-Terry loss of each pair whose label is wrong with probability `smoothing` (Mitchell 2023): (B) float32.

    The expectation over both labels; the penalty on the rewards' sum is the same for both.
    """
    chosen_B, rejected_B = scores_B2.unbind(-1)
    loss_B = pairwise_loss(chosen_B, rejected_B, margins_B, centre)
    if not smoothing:
        return loss_B
    flipped_B = pairwise_loss(rejected_B, chosen_B, None if margins_B is None else -margins_B, centre)
    return (1 - smoothing) * loss_B + smoothing * flipped_B


class PairTraining(StageTraining, Trainer):  # type: ignore[misc]
    """Learns which of two conversations was preferred."""

    def __init__(self, *args: Any, centre: float, smoothing: float, margin: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._centre, self._smoothing, self._margin = centre, smoothing, margin

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> Tensor:
        margins_B, weights_B = batch.pop("margins"), batch.pop("weights")
        scores_B2 = model(**batch)
        loss_B = smoothed_loss(scores_B2, margins_B if self._margin else None, centre=self._centre, smoothing=self._smoothing)
        total: Tensor = (loss_B * weights_B).sum()
        return total

    def items(self, batch: dict[str, Any]) -> float:
        return float(batch["weights"].sum())
