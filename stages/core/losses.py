"""Losses as pure tensors. Sums, not means: who knows the whole step's count divides, so that no loss depends on how a batch was cut.

Shapes: N learned positions, B pairs, H hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def chunked_cross_entropy(hidden_NH: Tensor, head_VH: Tensor, targets_N: Tensor, chunk: int = 2048) -> Tensor:
    """Sum over N of -log p(target), without ever holding more than `chunk` rows of logits.

    The gradients are computed along with the loss, so no logits are kept for the backward pass. Matrix products run in the autocast
    precision where there is one; softmax and sum are fp32. Returns an fp32 scalar; 0 (with a graph) for N = 0.
    """
    if not torch.is_grad_enabled() or not (hidden_NH.requires_grad or head_VH.requires_grad):
        return _loss_only(hidden_NH, head_VH, targets_N, chunk)
    return _ChunkedCrossEntropy.apply(hidden_NH, head_VH, targets_N, chunk)  # type: ignore[no-any-return, no-untyped-call]


def pairwise_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None, centre: float = 0.0) -> Tensor:
    """Bradley-Terry loss of each pair, fp32 (B,): -log sigmoid(chosen - rejected - margin) + centre * (chosen + rejected)^2.

    Only differences of rewards are determined by pairs; `centre` pins their mean near zero (Eisenstein et al. 2023).
    """
    chosen_B, rejected_B = chosen_B.float(), rejected_B.float()
    difference_B = chosen_B - rejected_B
    if margin_B is not None:
        difference_B = difference_B - margin_B.float()
    return -functional.logsigmoid(difference_B) + centre * (chosen_B + rejected_B).square()


def _loss_only(hidden_NH: Tensor, head_VH: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
    total = hidden_NH.new_zeros((), dtype=torch.float32)
    for part_H, target in zip(torch.split(hidden_NH, chunk), torch.split(targets_N, chunk), strict=True):
        total = total + functional.cross_entropy(functional.linear(part_H, head_VH).float(), target, reduction="sum")
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_head_VH = torch.zeros_like(head_VH) if ctx.needs_input_grad[1] else None
        total = hidden_NH.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden_NH.size(0), chunk):
            part, target = hidden_NH[start : start + chunk], targets_N[start : start + chunk, None]
            logprobs = functional.linear(part, head_VH).float().log_softmax(-1)
            total -= logprobs.gather(1, target).sum()
            # d loss / d logits = softmax - one-hot
            slope = logprobs.exp_().scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
            grad_hidden_NH[start : start + chunk] = functional.linear(slope.to(part.dtype), head_VH.t())
            if grad_head_VH is not None:
                grad_head_VH += functional.linear(slope.t().to(part.dtype), part.t()).to(grad_head_VH.dtype)
        ctx.save_for_backward(grad_hidden_NH, grad_head_VH)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_head_VH = ctx.saved_tensors
        (slope,) = slopes
        return grad_hidden_NH * slope.to(grad_hidden_NH.dtype), None if grad_head_VH is None else grad_head_VH * slope, None, None
