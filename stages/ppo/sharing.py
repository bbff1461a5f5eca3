"""Players that share weights, so that one model's memory holds several of them.

shared-trunk: the critic is a small head on the hidden states of the policy's own trunk. The trunk gets no gradient from it: the value loss would
scale the policy's step. What a policy's forward pass has computed, its critic does not compute again.

shared-base: policy and critic are adapters on one frozen base, and the reference is that base with neither. Which adapter acts is switched without
touching what trains; with gradient checkpointing a backward pass recomputes with what acts *then*, so forward and backward of one player lie
inside one `acting`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stages.adapters.building import add_adapter, parameters_of, train_only
from stages.adapters.config import AdapterSpec
from stages.adapters.switching import active, active_adapters, trained_adapter
from stages.core.logprobs import Batch, TokenLogprobs, TokenValues
from stages.core.seeds import seed_for

CRITIC = "critic_adapter"
"""Name of the critic's adapter on a shared base."""


class HeadOnTrunk(nn.Module):
    """A critic that is two layers (as in trlx) on the policy's hidden states; its parameters are the head's alone, and begin by the seed alone."""

    def __init__(self, policy: TokenLogprobs, hidden_size: int, seed: int) -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple, where torch does not look: the policy's parameters are no parameters of this module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "value head"))
            first, last = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(first, nn.ReLU(), last)
        policy.kept = {}

    def forward(self, batch: Batch) -> Tensor:
        """Values (N) float32: of the hidden states that the policy's pass over this batch has left, or else of a pass of its own."""
        (policy,) = self._policy
        hidden_NH = policy.take_hidden(batch)
        if hidden_NH is None:
            with torch.no_grad():
                hidden_NH = policy.hidden(batch)
        return self.of_hidden(hidden_NH)

    def of_hidden(self, hidden_NH: Tensor) -> Tensor:
        """Values (N) of the hidden states (N, H) before each answer token, which are cut from their graph where they are kept or made."""
        values_N1: Tensor = self.head(hidden_NH.float())
        return values_N1[:, 0]


class AdapterLogprobs(TokenLogprobs):
    """A policy that is one adapter of a shared base: of the base's parameters, those of the critic's adapter are not its own."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in super().named_parameters(*args, **kwargs) if f".{CRITIC}." not in name)


class AdapterValues(TokenValues):
    """A critic that is an adapter, with a value head, on the policy's base: of the base's parameters, only those of its adapter are its own."""

    def __init__(self, model: Any, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__(model.get_decoder(), hidden_size, dtype)
        self._model = (model,)
        self.names = [*(name for name in active_adapters(model) if name != trained_adapter(model)), CRITIC]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        own = (f".{CRITIC}.", "head.")
        return (
            (name, parameter) for name, parameter in super().named_parameters(*args, **kwargs) if own[0] in name or name.startswith(own[1])
        )

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Let the critic's adapter act instead of the policy's, for forward and backward passes."""
        with active(self._model[0], self.names):
            yield

    def forward(self, batch: Batch) -> Tensor:
        with self.acting():
            values_N: Tensor = super().forward(batch)
        return values_N


def acting(module: nn.Module) -> AbstractContextManager[None]:
    """In which a player's forward and backward passes run."""
    return module.acting() if isinstance(module, AdapterValues) else nullcontext()


def add_critic(model: Any, adapter: AdapterSpec, seed: int) -> None:
    """Put a second adapter of the same shape onto a peft model, for the critic; both train, and the first one acts."""
    policy, before = trained_adapter(model), active_adapters(model)
    add_adapter(model, adapter, "CAUSAL_LM", seed=seed, name=CRITIC)
    train_only(model, policy, before)
    for parameter in parameters_of(model, CRITIC).values():
        parameter.requires_grad_(True)


def without_critic(model: Any) -> Any:
    """The model without the critic's adapter, as it is saved."""
    if CRITIC in getattr(model, "peft_config", {}):
        model.delete_adapter(CRITIC)
    return model
