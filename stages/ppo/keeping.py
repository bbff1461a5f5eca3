"""Which weights a run leaves: the last ones, their moving average, or those of the best evaluation within a KL budget."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stages.ppo.players import Player

Weights = dict[str, Tensor]


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Copies on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


@dataclass
class Keeping:
    """What is remembered of the policy beside the policy itself. Settings as in `PPO`: `ema`, `keep` and `kl_budget`."""

    decay: float | None = None
    best: bool = False
    kl_budget: float | None = None
    average: Weights = field(default_factory=dict)
    """Exponential moving average of the policy's weights; empty before its first step."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """`step`, `reward` and `weights` of the best evaluation so far."""

    def follow(self, policy: Player) -> None:
        """After a rollout's updates: average <- decay * average + (1 - decay) * policy."""
        if self.decay is None:
            return
        now = policy.weights()
        if not self.average:
            self.average = copied(now)
        for name, tensor in self.average.items():
            tensor.lerp_(now[name].to(tensor.device), 1.0 - self.decay)

    @contextmanager
    def shown(self, policy: Player) -> Iterator[None]:
        """The policy as it would be left now: with its average's weights, where there is one; afterwards with its own again."""
        if not self.average:
            yield
            return
        own = copied(policy.weights())
        policy.put(self.average)
        try:
            yield
        finally:
            policy.put(own)

    def offer(self, step: int, line: Mapping[str, float], policy: Player) -> None:
        """Remember the policy as it stands if it is the best so far on held-out prompts, among those within the budget."""
        within = self.kl_budget is None or line["held_out_kl"] <= self.kl_budget
        if self.best and within and (not self.chosen or line["held_out_reward"] > self.chosen["reward"]):
            self.chosen = {"step": step, "reward": line["held_out_reward"], "weights": copied(policy.weights())}

    def settle(self, policy: Player, last: int) -> tuple[int, list[str]]:
        """Give the policy the weights that it is left with; the step that they are of, and what was decided."""
        if self.chosen:
            policy.put(self.chosen["weights"])
            budget = "" if self.kl_budget is None else f" within {self.kl_budget:g} nats"
            return self.chosen["step"], [
                f"kept: the policy after rollout {self.chosen['step']}, whose held-out reward {self.chosen['reward']:.3f} is the best{budget}"
            ]
        if self.average:
            policy.put(self.average)
            return last, [f"kept: the moving average of the policy's weights, decay {self.decay:g} per rollout"]
        return last, []

    def state(self) -> dict[str, Any]:
        return {"average": self.average, "chosen": self.chosen}

    def load(self, state: dict[str, Any]) -> None:
        self.average, self.chosen = state["average"], state["chosen"]
