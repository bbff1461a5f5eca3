"""Several adapters on one base: which of them act now. What trains is never touched by a switch.

peft's own `set_adapter` and `disable_adapter` also turn `requires_grad` of other adapters on and off and walk all modules: here only the names that
each layer consults are exchanged, and put back. With gradient checkpointing a backward pass recomputes with whatever is active *then*: one forward
pass, its backward pass, and only after that a switch.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from stages.adapters.building import parameters_of, train_only


@contextmanager
def active(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Let exactly these adapters of a peft model act, in this order; none is the bare base. Raises KeyError for an unknown name."""
    unknown = [name for name in names if name not in model.peft_config]
    if unknown:
        raise KeyError(f"no adapter '{unknown[0]}' (there are {', '.join(model.peft_config)})")
    if _is_prompted(model):
        with _one_prompt(model, names):
            yield
        return
    with _consulted(model, names):
        yield


@contextmanager
def adapter_off(model: Any, name: str | None = None) -> Iterator[None]:
    """The model without one of its active adapters (the one in training if left out), the others on: what it was before that one."""
    name = name or trained_adapter(model)
    with active(model, [other for other in active_adapters(model) if other != name]):
        yield


def active_adapters(model: Any) -> list[str]:
    """Names of the adapters that act now."""
    if _is_prompted(model):
        return [] if model._adapters_disabled else [model.active_adapter]
    return list(dict.fromkeys(name for layer in _layers(model) for name in layer.active_adapters))


def trained_adapter(model: Any) -> str:
    """The adapter that PeftModel has as its own: the newest one added."""
    name = model.active_adapter
    return str(name[-1] if isinstance(name, list) else name)


def frozen_twin(model: Any, name: str, twin: str) -> str:
    """Add a frozen copy of an adapter as it is now: what the model was, at the cost of the adapter alone. Gives the copy's name."""
    with unchanged(model), warnings.catch_warnings():
        # The settings say already which layers share a matrix; peft looks for them again, and wraps have hidden them.
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying")
        model.add_adapter(twin, _copied(model.peft_config[name]))
        with torch.no_grad():
            for copy, original in zip(parameters_of(model, twin).values(), parameters_of(model, name).values(), strict=True):
                copy.copy_(original)
    return twin


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Add adapters inside: those that acted before act after, those that trained train, and the new ones do neither."""
    acting, newest = active_adapters(model), trained_adapter(model)
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    yield
    train_only(model, newest, acting)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in trained)


def _copied(config: Any) -> Any:
    """Settings for a copy, whose weights are set afterwards: no start of its own may touch the base."""
    import copy

    twin = copy.deepcopy(config)
    if hasattr(twin, "init_lora_weights"):
        twin.init_lora_weights = True
    return twin


def _is_prompted(model: Any) -> bool:
    return any(config.is_prompt_learning for config in model.peft_config.values())


@contextmanager
def _one_prompt(model: Any, names: Sequence[str]) -> Iterator[None]:
    if not names:
        with model.disable_adapter(), _consulted(model, ()):
            yield
        return
    if len(names) > 1:
        raise ValueError(f"a model reads one prompt at a time, not {', '.join(names)}")
    before, model.active_adapter = model.active_adapter, names[0]
    try:
        with _consulted(model, names):
            yield
    finally:
        model.active_adapter = before


@contextmanager
def _consulted(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Each layer's list of active adapters, exchanged and put back."""
    layers = _layers(model)
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [name for name in names if name in _held(layer)]
    try:
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer._active_adapter = earlier


def _layers(model: Any) -> list[Any]:
    """Modules that consult a list of active adapters; found once for each number of adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    key = tuple(model.peft_config)
    kept = model.__dict__.get("_switched_layers")
    if kept is None or kept[0] != key:
        kept = key, [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
        model.__dict__["_switched_layers"] = kept
    return list(kept[1])


def _held(layer: Any) -> set[str]:
    """Adapters that a layer has weights of."""
    return {name for place in layer.adapter_layer_names for name in getattr(layer, place)}
