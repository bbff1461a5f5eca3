"""Fused kernels in the place of a model's own operations, where `hardware.kernels` asks for them. Names of weights, and results up to rounding, stay.

`compile` lets torch compile what every layer computes on tokens one by one, its MLP and norms; attention, which asks for the documents' lengths,
stays as it is (on a GPU it is one flash call). `liger` takes Liger's Triton kernels for norms, rotary positions and gated MLPs.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from data.errors import DataError
from stages.contract import Hardware

TOKENWISE = ("mlp", "norm", "layernorm")
"""Ends of the names of modules that treat every token alone."""


def fused(model: Any, hardware: Hardware) -> Any:
    """The model with the kernels that were asked for. Raises DataError where they cannot be had."""
    if hardware.kernels == "compile":
        for module in tokenwise(model):
            module.compile(dynamic=True)
    elif hardware.kernels == "liger":
        _liger(model)
    return model


def tokenwise(model: nn.Module) -> list[nn.Module]:
    """Outermost modules that treat every token alone."""
    found: list[nn.Module] = []
    inside: set[str] = set()
    for name, module in model.named_modules():
        if name.endswith(TOKENWISE) and not any(name.startswith(f"{outer}.") for outer in inside):
            inside.add(name)
            found.append(module)
    return found


def _liger(model: Any) -> None:
    if find_spec("liger_kernel") is None:
        raise DataError("hardware.kernels: liger needs the package liger-kernel (pip install liger-kernel); plain does the same, slower")
    if not torch.cuda.is_available():
        raise DataError("hardware.kernels: liger needs a CUDA device; plain does the same")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    # The loss stays ours: it sees learned tokens alone, in chunks.
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
