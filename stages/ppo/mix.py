"""The pretraining mix of PPO-ptx (Ouyang et al. 2022, eq. 2): beside each policy step, the likelihood of text, so that what the rewards never ask
about is not forgotten."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.order import visited
from stages.core.logprobs import TokenLogprobs, batch_of, passes
from stages.core.seeds import seed_for
from stages.core.watchdog import beat
from stages.ppo.ranks import Ranks


@dataclass(frozen=True)
class Mix:
    """Documents, and how many of them each policy step sees. Which ones depends on the seed and the number of steps taken, so resuming needs no state."""

    documents: Sequence[list[int]]
    """Token ids, two at least; the first is only seen."""
    per_step: int
    coefficient: float
    policy: TokenLogprobs
    """The policy's model at temperature 1: text is learned as it is written, at whatever temperature answers are drawn."""
    seed: int
    ranks: Ranks
    learn: Callable[[Tensor], None] = Tensor.backward
    """Adds the gradients of a loss."""

    def backward(self, step: int, micro_batch: int | None = None) -> Tensor:
        """Add the gradient of coefficient x mean -log p per token over this step's documents; this process's share of that mean, detached."""
        chosen = [self.documents[i] for i in visited(len(self.documents), seed_for(self.seed, "mix"), step * self.per_step, self.per_step)]
        tokens = sum(len(ids) - 1 for ids in chosen)
        mine = chosen[self.ranks.rank :: self.ranks.size]
        device = next(self.policy.parameters()).device
        total = torch.zeros((), device=device)
        parts = [[mine[i] for i in rows] for rows in passes([len(ids) for ids in mine], micro_batch, device)]
        for number in range(self.ranks.most(len(parts))):
            beat()
            part = parts[number] if number < len(parts) else chosen[:1]  # only to be there
            batch = batch_of([ids[:1] for ids in part], [ids[1:] for ids in part], device)
            nats = -self.policy(batch)[0].sum() / tokens * (number < len(parts))
            self.learn(self.coefficient * nats)
            total += nats.detach()
        return total
