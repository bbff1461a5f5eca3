"""Packed rows as tensors. Documents in a row are told apart by positions that restart at 0; there is no padding and no 2-D mask.

transformers isolates packed documents only so: with a 2-D mask, or with the default cache, they leak into one another silently.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

IGNORE = -100
"""Label of a token that is not learned. Never the pad id, which may be a real token."""


class Packed(TypedDict):
    """One packed row. T tokens of one or more documents."""

    input_ids: Tensor
    """(T,) int64."""
    position_ids: Tensor
    """(T,) int64; 0 at each document's first token."""
    labels: Tensor
    """(T,) int64; label t is token t itself (the model shifts); IGNORE where not learned and at each document's first token."""


def packed_row(documents: Sequence[Sequence[int]], learn: Sequence[Sequence[bool]] | None = None) -> Packed:
    """Documents behind one another as one row. Without `learn`, every token is learned that has a predecessor in its document."""
    ids = [torch.as_tensor(document, dtype=torch.int64) for document in documents]
    positions = [torch.arange(len(document)) for document in ids]
    labels = [document.clone() for document in ids]
    for index, label in enumerate(labels):
        if learn is not None:
            label[~torch.as_tensor(learn[index], dtype=torch.bool)] = IGNORE
        # Without this the last token of one document would predict the first of the next.
        label[:1] = IGNORE
    return {"input_ids": torch.cat(ids), "position_ids": torch.cat(positions), "labels": torch.cat(labels)}
