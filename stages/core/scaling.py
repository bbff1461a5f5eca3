"""Loss scaling, by which fp16 can learn (Micikevicius et al. 2018).

fp16 knows nothing below 6e-8, where many gradients are. The loss is multiplied by a scale before the backward pass, and its gradients, which are stored
in fp32, are divided by it before they are clipped. Where the scale was too large for a gradient, the step is left out and the scale halved: an overflow,
which is part of finding the scale and no divergence. A loss that is not finite, or a gradient that is not at a scale of `LEAST`, is one.
"""

import torch
from torch.amp import GradScaler

LEAST = 1.0
"""At this scale a gradient is what it would be without one."""


def scaler_for(dtype: torch.dtype, device: torch.device) -> GradScaler:
    """A scaler for fp16, with a scale from the start: a process of several may have no loss in a step. For other types one that does nothing, whose state is
    empty."""
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    if scaler.is_enabled():
        scaler.scale(torch.zeros((), device=device))  # torch makes the scale with the first loss
    return scaler


def restore(scaler: GradScaler, state: dict[str, float] | None) -> None:
    """Take over a scaler's state, where a checkpoint has one: one that was written in another precision has none."""
    if state and scaler.is_enabled():
        scaler.load_state_dict(state)


def may_overflow(scaler: GradScaler | None) -> bool:
    """Whether a gradient that is not finite may be the scale's doing."""
    return scaler is not None and scaler.is_enabled() and scaler.get_scale() > LEAST
