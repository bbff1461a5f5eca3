"""A task that can be enumerated: actions {EOS, a, b, c}, at most three tokens, so 40 terminal sequences, each with a fixed random reward.

Everything that PPO estimates from samples is here an exact sum: the optimum of E[r] - beta KL(policy || reference) is
reference * exp(r / beta), normalised.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EOS, ACTIONS, LONGEST = 0, 4, 3


def terminal_sequences() -> list[list[int]]:
    ended = [[*body, EOS] for length in range(LONGEST) for body in itertools.product((1, 2, 3), repeat=length)]
    return ended + [list(body) for body in itertools.product((1, 2, 3), repeat=LONGEST)]


SEQUENCES = terminal_sequences()
STATES = [list(body) for length in range(LONGEST) for body in itertools.product((1, 2, 3), repeat=length)]
STATE_OF = {tuple(state): index for index, state in enumerate(STATES)}


@dataclass(frozen=True)
class Toy:
    """Shapes: S = 40 sequences, T = 3 tokens, X = 13 states (words before EOS so far), A = 4 actions."""

    seed: int
    dtype: torch.dtype = torch.float64

    def _drawn(self, purpose: int, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + purpose)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.dtype)

    @cached_property
    def rewards_S(self) -> Tensor:
        return self._drawn(1, len(SEQUENCES))

    @cached_property
    def reference_XA(self) -> Tensor:
        return self._drawn(2, len(STATES), ACTIONS).log_softmax(-1)

    @cached_property
    def policy_XA(self) -> Tensor:
        """Some policy that is not the reference."""
        return self._drawn(3, len(STATES), ACTIONS)

    @cached_property
    def mask_ST(self) -> Tensor:
        return torch.tensor([[t < len(sequence) for t in range(LONGEST)] for sequence in SEQUENCES])

    @cached_property
    def actions_ST(self) -> Tensor:
        return torch.tensor([sequence + [EOS] * (LONGEST - len(sequence)) for sequence in SEQUENCES])

    @cached_property
    def states_ST(self) -> Tensor:
        return torch.tensor([[STATE_OF.get(tuple(sequence[:t]), 0) for t in range(LONGEST)] for sequence in SEQUENCES])

    def logp_ST(self, logits_XA: Tensor) -> Tensor:
        """Log-probability of every token of every sequence; garbage where masked."""
        return logits_XA.log_softmax(-1)[self.states_ST, self.actions_ST]

    def logp_S(self, logits_XA: Tensor) -> Tensor:
        return torch.where(self.mask_ST, self.logp_ST(logits_XA), 0.0).sum(1)

    def objective(self, logits_XA: Tensor, beta: float) -> Tensor:
        """E[r] - beta KL(policy || reference), exactly."""
        logp_S = self.logp_S(logits_XA)
        return (logp_S.exp() * (self.rewards_S - beta * (logp_S - self.logp_S(self.reference_XA)))).sum()

    def optimum_S(self, beta: float, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the optimal policy over sequences, where the reference samples at `temperature`."""
        return (self.logp_S(self.reference_XA / temperature) + self.rewards_S / beta).log_softmax(0)

    def exact_values_ST(self, logits_XA: Tensor, reward_ST: Tensor) -> Tensor:
        """V of the state before every token: the expected sum of later rewards, by brute force over all continuations."""
        p_S, logp_ST = self.logp_S(logits_XA).exp(), torch.where(self.mask_ST, self.logp_ST(logits_XA), 0.0)
        values_ST = torch.zeros_like(reward_ST)
        for t in range(LONGEST):
            to_go_S = torch.where(self.mask_ST, reward_ST, 0.0)[:, t:].sum(1)
            for index, sequence in enumerate(SEQUENCES):
                if t >= len(sequence):
                    continue
                same_S = torch.tensor([s[:t] == sequence[:t] and len(s) > t for s in SEQUENCES])
                reach = logp_ST[index, :t].sum().exp()
                values_ST[index, t] = (p_S * to_go_S)[same_S].sum() / reach
        return values_ST


def kl(logp_S: Tensor, other_S: Tensor) -> float:
    return float((logp_S.exp() * (logp_S - other_S)).sum())
