"""Players under ZeRO: each that learns has a DeepSpeed engine of its own, with its own optimizer, learning rate and clip; those that only judge
are sharded under ZeRO-3.

Never one engine for two players. ZeRO-3 keeps the gradient of a parameter that got none in a window and applies it again: a critic's step would
move the policy. And one engine has one clip: the value loss would scale the policy's step.

Under ZeRO-3 a forward pass, and from ZeRO-2 on a backward pass, is a meeting of all processes. They therefore make equally many (`Ranks.most`),
and where they cannot know how many there will be, in generation, the weights are brought together before and nobody has to be waited for.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.contract import Hardware, StageError
from stages.core.answers import Scorer
from stages.core.config import Optimizer
from stages.core.logprobs import Batch, TokenLogprobs
from stages.core.rewards import Ensemble, ModelScorer, Rewards
from stages.core.zero import engine_config, put_shards, shard, shards, zero_stage
from stages.ppo.players import NotFiniteError, Player
from stages.ppo.ranks import Ranks


class ShardedPlayer(Player):
    """A player on an engine. Gradients gather in the engine until `step`."""

    may_skip = False

    def __init__(
        self, name: str, module: nn.Module, settings: Optimizer, planned: int, ranks: Ranks, *, hardware: Hardware, width: int
    ) -> None:
        super().__init__(name, module, settings, planned, ranks)
        self.stage = zero_stage(hardware)
        # The caller says when a window ends, by `step`; DeepSpeed's own count would keep the last backward pass alone.
        self.config = engine_config(hardware, clip=settings.clip, dtype=torch.float32, width=width) | {
            "managed_gradient_accumulation": False
        }
        self.engine = initialize(module, self.config, self.optimizer)
        self.optimizer = self.engine.optimizer

    @property
    def size_of_state(self) -> int:
        """The engine adds a master copy of the weights."""
        return 4 * self.size_of_trained

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Through the engine: it counts backward passes by forward passes."""
        return self.engine(*inputs, **named)

    def at(self, temperature: float) -> Any:
        return _At(self, temperature)

    def backward(self, loss: Tensor) -> None:
        """Add this process's gradients; the engine averages over processes where the loss is a share of a sum."""
        self.engine.backward(loss * self.ranks.size)

    def step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("lr_ratio", 1.0)
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        self.taken += 1
        if not math.isfinite(norm) or norm < 0:  # DeepSpeed gives -1 where the norm is infinite
            raise NotFiniteError(f"the {self.name}'s gradient is not finite (norm {norm:.4g}) after {self.taken - 1} updates")
        return norm

    def forget(self) -> None:
        self.optimizer.zero_grad()
        if self.stage == 2:  # it keeps sums of its own, which only a step would end
            self.optimizer.all_grad_tensors = dict.fromkeys(self.optimizer.all_grad_tensors)
            self.optimizer.averaged_gradients = {}
        if self.config["zero_optimization"].get("offload_optimizer"):
            self.optimizer.accumulated_grads_in_cpu = {}

    def weights(self) -> dict[str, Tensor]:
        """The weights that train, by name, or this process's shards of them."""
        return {name: shards(p).detach() for name, p in self.module.named_parameters() if p.requires_grad}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Until the next step: the engine's optimizer keeps its own copy of the weights, from which that one starts."""
        self._check(weights)
        put_shards(self.module, weights)

    def state(self) -> dict[str, Any]:
        """Weights and optimizer are in the engine's own files."""
        return {"taken": self.taken}

    def load(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=self.name, save_latest=False, exclude_frozen_parameters=True)

    def restore(self, folder: Path) -> None:
        found, _ = self.engine.load_checkpoint(str(folder), tag=self.name, load_module_strict=False)
        if found is None:
            raise StageError(f"{folder} holds no shards of the {self.name}; start the stage anew")

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every process, gathered once, with no hooks: one forward pass or a thousand cost no message."""
        if self.stage < 3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters
        from trl.models.utils import add_hooks, remove_hooks

        with GatheredParameters(list(self.module.parameters())):
            remove_hooks(self.engine)
            try:
                yield
            finally:
                add_hooks(self.engine)


class _At:
    """A sharded policy's log-probabilities at another temperature."""

    def __init__(self, player: ShardedPlayer, temperature: float) -> None:
        self.player, self.temperature, self.parameters = player, temperature, player.module.parameters

    def __call__(self, batch: Batch) -> Any:
        return self.player(batch, temperature=self.temperature)


def initialize(module: nn.Module, config: dict[str, Any], optimizer: Any = None) -> Any:
    """A DeepSpeed engine around a module, to train it or, without an optimizer, to hold its weights in shards."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    shard(module, config)
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]


def judging(module: Any, hardware: Hardware, width: int) -> Any:
    """A frozen module whose weights lie in shards under ZeRO-3 and are gathered layer by layer; otherwise as it is."""
    if zero_stage(hardware) == 3:
        config = engine_config(hardware, clip=0.0, dtype=torch.float32, width=width)
        config["zero_optimization"].pop("offload_optimizer", None)
        initialize(module, config)
        module.eval()
    return module


def judging_rewards(rewards: Rewards, hardware: Hardware, ranks: Ranks) -> Rewards:
    """The same rewards, their models as `judging` leaves them."""

    def shared(scorer: ModelScorer) -> ModelScorer:
        width = scorer.model.config.get_text_config().hidden_size
        return replace(scorer, model=judging(scorer.model, hardware, width), rounds=ranks.most)

    def each(scorer: Scorer) -> Scorer:
        if isinstance(scorer, Ensemble):
            return replace(scorer, members=[shared(member) for member in scorer.members])
        return shared(scorer) if isinstance(scorer, ModelScorer) else scorer

    return Rewards([(name, part, each(scorer)) for name, part, scorer in rewards.parts]) if zero_stage(hardware) == 3 else rewards


def probe_of(policy: TokenLogprobs) -> Tensor:
    """Some output of the policy that every weight has a part in."""
    policy.rounds = int  # asked the same everywhere, and at last by one process alone
    device = next(policy.parameters()).device
    ids = torch.arange(1, 9, device=device)[None]
    place = torch.arange(7, device=device)
    found: Tensor = policy(Batch(ids, torch.zeros_like(place), place, ids[0, 1:]))[0]
    return found
