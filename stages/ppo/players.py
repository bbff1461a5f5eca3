"""The players of PPO: a policy and a critic that learn, each with its own optimizer, schedule and clip, and a reference that does not.

Never one optimizer or one clip for both: the value loss would then scale the policy's step. Dropout is off in all of them: with it, the first ratio
of an update would not be 1. The reference is a frozen copy, or, where an adapter is trained, the policy with that adapter switched off.
"""

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from stages.adapters.switching import active, active_adapters, trained_adapter
from stages.contract import StageError
from stages.core.config import Optimizer
from stages.core.logprobs import Batch, TokenLogprobs, TokenValues
from stages.core.scaling import may_overflow, restore, scaler_for
from stages.core.schedules import adamw, learning_rate_factor
from stages.core.zero import put_shards, shards
from stages.ppo.ranks import Ranks
from stages.ppo.sharing import HeadOnTrunk


class Policy(Protocol):
    """What the loop asks of a policy or a reference: log-probabilities (N) of the answers' tokens and, if asked, entropies (N)."""

    def __call__(self, batch: Batch, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]: ...


class NotFiniteError(StageError):
    """A gradient is infinite or not a number. The player has forgotten it and taken no step; its schedule goes on."""


class OverflowedError(Exception):
    """The loss scale was too large for a gradient in fp16. The player has forgotten it, halved the scale and taken no step; its schedule goes on."""


class Player:
    """A module that learns by AdamW. Gradients gather until `step`."""

    may_skip = True
    """Whether a gradient that is not finite is found before anything has moved."""

    def __init__(
        self, name: str, module: nn.Module, settings: Optimizer, planned: int, ranks: Ranks, dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype` is the arithmetic of its forward passes."""
        self.name, self.module, self.settings, self.ranks = name, module, settings, ranks
        self.planned, self.taken = max(planned, 1), 0
        self.lowered = 1.0
        """What roll backs have made of the learning rate."""
        self.optimizer: Any = adamw([module], settings)
        self.scaler = scaler_for(dtype, next(module.parameters()).device)
        self._losses: Tensor | float = 0.0
        """The sum of those whose gradients have gathered."""

    @property
    def size(self) -> int:
        """Bytes of its weights in fp32."""
        return 4 * sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.module.parameters())

    @property
    def size_of_trained(self) -> int:
        """Bytes of the weights that train, in fp32."""
        return 4 * sum(getattr(p, "ds_numel", p.numel()) for p in self.module.parameters() if p.requires_grad)

    @property
    def size_of_state(self) -> int:
        """Bytes of its part of a checkpoint: weights that train, and two moments of each."""
        return 3 * self.size_of_trained

    @property
    def learning_rate(self) -> float:
        return self.settings.learning_rate * learning_rate_factor(self.taken, self.planned, self.settings) * self.lowered

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The module's forward pass."""
        return self.module(*inputs, **named)

    def at(self, temperature: float) -> Any:
        """A policy's log-probabilities at another temperature."""
        assert isinstance(self.module, TokenLogprobs)  # noqa: S101 - only a policy is asked
        return TokenLogprobs(self.module.model, temperature, self.module.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's share of a loss, times the loss scale."""
        self._losses = self._losses + loss.detach()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def whole(self) -> AbstractContextManager[None]:
        """In which this process has all weights, and may ask the module as often as it likes."""
        return nullcontext()

    def step(self) -> float:
        """Sum gradients over processes, clip their global norm, step, forget them. Returns the norm before clipping.

        Raises:
            NotFiniteError: there is none. OverflowedError: in fp16, because of the loss scale.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ranks.sum_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.settings.clip))
        if not math.isfinite(norm):
            self._leave_out(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("lr_ratio", 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget()
        self.taken += 1
        return norm

    def _leave_out(self, norm: float) -> NoReturn:
        """Every process comes here with the same norm, and so with the same scale."""
        lost, scaled = self.ranks.any(not math.isfinite(float(self._losses))), may_overflow(self.scaler)
        self.scaler.update()
        self.forget()
        self.taken += 1
        if scaled and not lost:
            raise OverflowedError
        raise NotFiniteError(f"the {self.name}'s gradient is not finite (norm {norm:.4g}) after {self.taken - 1} updates")

    def forget(self) -> None:
        """Drop the gradients gathered so far."""
        self.optimizer.zero_grad(set_to_none=True)
        self._losses = 0.0

    def skip(self, updates: int) -> None:
        """Updates that were planned and are not taken: the schedule goes on."""
        self.taken += updates

    def weights(self) -> dict[str, Tensor]:
        """The weights that train, by name; detached, not copied."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights` gave. Raises StageError where it is of other parameters."""
        own = self._check(weights)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])

    def _check(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self.weights()
        if own.keys() != weights.keys():
            raise StageError(f"the checkpoint's {self.name} has other parameters than the model; start the stage anew")
        return own

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: weights that train, optimizer, place in the schedule, loss scale."""
        return {
            "weights": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "taken": self.taken,
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = state["taken"]
        restore(self.scaler, state.get("scaler"))

    def save(self, folder: Path) -> None:
        """Write what `state` does not hold; every process calls it."""

    def restore(self, folder: Path) -> None:
        """Take over what `save` wrote."""


@dataclass
class Players:
    policy: Player
    critic: Player
    reference: Policy
    refreshed: bool = False
    """Whether the reference is no longer the policy of the start."""

    in_shards: bool = False
    """Whether a process holds only its shards of the players, and of what is remembered of them."""

    def look(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Log-probabilities, entropies, the reference's log-probabilities and values of a batch's targets, (N) each; what one forward pass can give, one gives."""
        policy, critic = self.policy.module, self.critic.module
        if isinstance(critic, HeadOnTrunk) and isinstance(policy, TokenLogprobs):
            hidden_NH = policy.hidden(batch)
            logp_N, entropy_N = policy.of_hidden(hidden_NH, batch.target_N, with_entropy=True)
            return logp_N, entropy_N, self.reference(batch)[0], critic.of_hidden(hidden_NH)
        return *self.policy(batch, with_entropy=True), self.reference(batch)[0], self.critic(batch)

    def refresh_reference(self) -> None:
        """Make the policy, as it now is, the reference."""
        assert isinstance(self.reference, nn.Module)  # noqa: S101 - the settings refuse it with an adapter
        put_shards(self.reference, _weights(self.policy.module))
        self.refreshed = True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; of the reference only what is not the start again."""
        moved = {"reference": _weights(self.reference)} if self.refreshed and isinstance(self.reference, nn.Module) else {}
        return {"policy": self.policy.state(), "critic": self.critic.state(), **moved}

    def load(self, state: dict[str, Any]) -> None:
        self.policy.load(state["policy"])
        self.critic.load(state["critic"])
        if "reference" in state and isinstance(self.reference, nn.Module):
            put_shards(self.reference, state["reference"])
            self.refreshed = True


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights, or this process's shards of them."""
    return {name: shards(parameter).detach() for name, parameter in module.named_parameters()}


def frozen_copy(policy: TokenLogprobs, *, on_its_weights: bool = False) -> TokenLogprobs:
    """A reference with weights of its own; or with the policy's, for as long as nothing has moved either: until both are cut into shards, which are copies."""
    same = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in policy.parameters()}
    return copy.deepcopy(policy, dict(same) if on_its_weights else None).requires_grad_(False).eval()


class AdapterOff:
    """A reference that shares the policy's weights: the policy as it is without the adapter in training, earlier adapters on.

    Where the adapter goes on from an earlier stage, `twin` is a frozen copy of it from before, which then takes its place.
    """

    def __init__(self, policy: TokenLogprobs, twin: str | None = None) -> None:
        self.policy = policy
        trained = trained_adapter(policy.model)
        earlier = [name for name in active_adapters(policy.model) if name != trained]
        self.names = [*earlier, twin] if twin else earlier

    @torch.no_grad()
    def __call__(self, batch: Batch, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        with active(self.policy.model, self.names):
            found: tuple[Tensor, Tensor | None] = self.policy(batch, with_entropy)
        return found


def critic_from_scores(classifier: Any, backbone: nn.Module, mean: float, std: float, dtype: torch.dtype) -> TokenValues:
    """A critic that begins as the reward model: its value is the standardised score that an answer ending here would get."""
    critic = TokenValues(backbone, classifier.score.weight.shape[1], dtype)
    with torch.no_grad():
        critic.head.weight.copy_(classifier.score.weight.float() / std)
        critic.head.bias.fill_(-mean / std)
    return critic.to(classifier.score.weight.device)
