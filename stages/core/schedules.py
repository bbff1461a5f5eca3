"""Learning-rate schedules and decay groups."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from stages.core.config import Optimizer

DECAY_SHARE = 0.2
"""Part of a warm-up-stable-decay run that decays."""


def learning_rate_factor(step: int, steps: int, optimizer: Optimizer) -> float:
    """Share of the peak learning rate used by the optimizer step after `step` earlier ones. The first step already learns."""
    warmup = math.ceil(optimizer.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if optimizer.schedule == "constant":
        return 1.0
    if optimizer.schedule == "wsd":
        decayed = max(0.0, (step - (1 - DECAY_SHARE) * steps) / (DECAY_SHARE * steps))
        return 1.0 - (1.0 - optimizer.final) * min(1.0, decayed)
    falling = progress if optimizer.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * progress))
    return 1.0 - (1.0 - optimizer.final) * falling


def adamw(models: Iterable[Any], optimizer: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with weight decay on matrices only: not on norms, biases and embeddings (tied heads included).

    A parameter with an `lr_ratio` of its own (LoRA+) learns at that multiple of the learning rate; its group holds it under the same name.
    """
    faster: dict[float, list[torch.nn.Parameter]] = {}
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    seen: set[int] = set()
    for model in models:
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
        for parameter in model.parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if (ratio := getattr(parameter, "lr_ratio", 1.0)) != 1.0:
                faster.setdefault(ratio, []).append(parameter)
                continue
            # Under ZeRO-3 a parameter's own shape is empty outside a gather.
            matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
            (decayed if matrix and id(parameter) not in embeddings else plain).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    for ratio, parameters in faster.items():
        own = {"lr": optimizer.learning_rate * ratio, "lr_ratio": ratio}
        groups.append({"params": parameters, "weight_decay": optimizer.weight_decay, **own})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        fused=True,
    )
