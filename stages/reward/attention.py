"""Attention over forked rows: two continuations of one beginning, computed together, and many such pairs in one row without padding.

A row is a sequence of forks. Of each fork the whole first conversation comes first, then those tokens of the second one that differ: they
see the beginning that both share. Registered as the attention `forks`; exact, not an approximation: each conversation is one causal SDPA,
so no mask over the whole row exists and nothing leaks between pairs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "forks"


@dataclass(frozen=True)
class Fork:
    """Two conversations with one beginning."""

    first: int
    """Tokens of the first conversation."""
    shared: int
    """Tokens with which both begin."""
    second: int
    """Tokens of the second conversation after the shared ones."""


def forks_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    forks: tuple[Fork, ...] = (),
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over (1, heads, T, head size); returns (1, T, heads, head size). The forks cover the row in order.

    Raises ValueError for a sliding window shorter than the row: it would count places in the row, not in a conversation.
    """
    if sliding_window is not None and sliding_window < query.size(2):
        raise ValueError(f"forks in one row cannot be computed under a sliding window of {sliding_window}")
    # One split, not many slices: the backward pass of a slice writes a gradient as large as the whole row.
    lengths = [length for fork in forks for length in (fork.first, fork.second)]
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.size(1) != key.size(1)}
    outputs = []
    for fork in forks:
        (q1, k1, v1), (q2, k2, v2) = next(parts), next(parts)
        outputs.append(nn.functional.scaled_dot_product_attention(q1, k1, v1, is_causal=True, **options))
        k = torch.cat([k1[:, :, : fork.shared], k2], dim=2)
        v = torch.cat([v1[:, :, : fork.shared], v2], dim=2)
        # All that is shared, and the own tokens up to oneself.
        sees = torch.ones(fork.second, fork.shared + fork.second, dtype=torch.bool, device=q2.device).tril(fork.shared)
        outputs.append(nn.functional.scaled_dot_product_attention(q2, k, v, attn_mask=sees, **options))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


# No mask function is registered under this name, and transformers then builds no mask.
AttentionInterface.register(NAME, forks_attention)
