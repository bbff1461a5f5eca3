"""Causal attention that never crosses from one packed document into another: the `documents` attention of transformers' models.

Documents are told apart by `position_ids`, which restart at 0 with each (the convention of transformers' own padding-free collators). No mask
of the whole row is ever built: each document is one causal SDPA, which is exact and on a CPU the fastest way measured (a dense mask takes
over four times as long), or on a GPU one variable-length flash call. With a cache or a padding mask it does what `sdpa` does.
"""

from functools import cache
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "documents"


def documents_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over (B, heads, T, head size); returns (B, T, heads, head size). Packed if the positions restart and nothing else decides."""
    lengths = None
    if attention_mask is None and position_ids is not None and query.size(2) == key.size(2) > 1:
        lengths = document_lengths(position_ids, query.size(0))
    if lengths is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0 and has_flash(query.device):
        return _flash(query, key, value, lengths, scaling), None
    return _one_by_one(query, key, value, lengths, dropout, scaling), None


@cache
def has_flash(device: torch.device) -> bool:
    """Whether torch's variable-length flash attention runs there: CUDA from compute capability 8 (A100) on; fp16 alone, as a V100 or T4 has, is not enough."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def document_lengths(position_ids: Tensor, rows: int) -> list[list[int]] | None:
    """Lengths of the documents in each row, or None if every row is a single one. Positions are (B, T), or (1, T) for all rows alike."""
    starts = position_ids[:, 1:] == 0
    if not bool(starts.any()):
        return None
    width = position_ids.size(1)
    found = []
    for row in starts:
        bounds = [0, *(row.nonzero().squeeze(1) + 1).tolist(), width]
        found.append([end - start for start, end in pairwise(bounds)])
    return found * (rows // len(found))


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: list[list[int]], dropout: float, scaling: float | None) -> Tensor:
    """Each run of neighbours of one length is one call; the parts are views, so that only the output is copied."""
    grouped = query.size(1) != key.size(1)
    flat = [tensor.transpose(0, 1).flatten(1, 2) for tensor in (query, key, value)]  # (heads, all tokens, head size)
    runs = [(length, sum(1 for _ in run)) for row in lengths for length, run in groupby(row)]
    parts = zip(*(torch.split(tensor, [length * count for length, count in runs], dim=1) for tensor in flat), strict=True)
    outputs = []
    for (length, count), (q, k, v) in zip(runs, parts, strict=True):
        q, k, v = (tensor.view(tensor.size(0), count, length, -1).transpose(0, 1) for tensor in (q, k, v))
        output = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (tokens, heads, head size)
    return torch.cat(outputs).view(query.size(0), -1, query.size(1), query.size(3))


def _flash(query: Tensor, key: Tensor, value: Tensor, lengths: list[list[int]], scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    flat = [length for row in lengths for length in row]
    bounds = torch.tensor([0, *flat], device=query.device).cumsum(0).to(torch.int32)
    batch, heads, width, size = query.shape
    q, k, v = (tensor.transpose(1, 2).reshape(batch * width, tensor.size(1), size) for tensor in (query, key, value))
    output = varlen_attn(q, k, v, bounds, bounds, max(flat), max(flat), scale=scaling, window_size=(-1, 0), enable_gqa=heads != key.size(1))
    assert isinstance(output, Tensor)  # noqa: S101 - a tuple only where auxiliary outputs are asked for
    return output.view(batch, width, heads, size)


def documents_mask(
    batch_size: int, q_length: int, kv_length: int, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any
) -> Tensor | None:
    """No mask where causality and documents are all there is to mask; otherwise (padding, cache, sliding window) `sdpa`'s."""
    plain = attention_mask is None and q_length == kv_length and kwargs.get("local_size") is None and not kwargs.get("use_vmap")
    if plain:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, *args, attention_mask=attention_mask, **kwargs)  # type: ignore[no-any-return]


AttentionInterface.register(NAME, documents_attention)
AttentionMaskInterface.register(NAME, documents_mask)
