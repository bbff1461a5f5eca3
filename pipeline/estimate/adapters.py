"""Parameters of adapters, by kind: what peft makes of a recipe's settings."""

import re
from collections.abc import Iterator

from pipeline.errors import RecipeError
from pipeline.estimate.shapes import Head, Matrix, Shape
from stages.adapters.config import IA3, AdapterSpec, LowRank, Prefix, Prompt, PTuning
from stages.adapters.layers import ATTENTION, MLP


def trainable(adapter: AdapterSpec, shape: Shape, head: Head = "words") -> int:
    """Parameters that train: the adapter's, and a score head as a whole where the model has one. Raises RecipeError for targets that are not there.

    LoRA (Hu et al. 2021) has rank x (inputs + outputs) for a matrix, DoRA (Liu et al. 2024) a magnitude for each output besides; IA3 (Liu et al. 2022) a
    factor for each key, value and inner activation; a prefix (Li & Liang 2021) a key and a value for each virtual token and layer, made by a network of
    two layers where it is projected; P-tuning (Liu et al. 2021) embeddings behind a network of three layers; prompt tuning (Lester et al. 2021)
    embeddings alone.
    """
    whole = shape.head(head) if head == "score" and adapter.family != "prompt" else 0
    if isinstance(adapter, LowRank):
        return whole + _low_rank(adapter, shape)
    if isinstance(adapter, IA3):
        return whole + shape.layers * (2 * shape.keys + shape.mlp)
    if isinstance(adapter, Prefix):
        cache = 2 * shape.layers * shape.keys
        if not adapter.projection:
            return shape.head(head) * (head == "score") + adapter.tokens * cache
        inner = adapter.hidden_size or shape.hidden
        network = (shape.keys + 1) * inner + (inner + 1) * cache
        return shape.head(head) * (head == "score") + adapter.tokens * shape.keys + network
    if isinstance(adapter, PTuning):
        inner, width = adapter.hidden_size or shape.hidden, shape.hidden
        network = (width + 1) * inner + (inner + 1) * inner + (inner + 1) * width
        return shape.head(head) * (head == "score") + adapter.tokens * width + network
    if isinstance(adapter, Prompt):
        return shape.head(head) * (head == "score") + adapter.tokens * shape.hidden
    raise TypeError(f"no count for {type(adapter).__name__}")


def _low_rank(adapter: LowRank, shape: Shape) -> int:
    adapted = list(targeted(adapter, shape))
    if not adapted:
        raise RecipeError(f"adapter.targets: the model has no layer {adapter.targets!r} (linear layers: {', '.join((*ATTENTION, *MLP))})")
    each = sum(adapter.rank * (matrix.inputs + matrix.outputs) + matrix.outputs * adapter.dora for matrix in adapted)
    saved = {"lm_head": shape.embedding, "embed_tokens": shape.embedding}
    return each + sum(saved.get(name, 0) for name in adapter.modules_to_save)


def targeted(adapter: LowRank, shape: Shape) -> Iterator[Matrix]:
    """The matrices that LoRA adapts, those of every layer."""
    for layer in range(shape.layers):
        for matrix in shape.matrices():
            part = "self_attn" if matrix.name in ATTENTION else "mlp"
            if _wanted(adapter, matrix.name, f"model.layers.{layer}.{part}.{matrix.name}"):
                yield matrix


def _wanted(adapter: LowRank, name: str, whole: str) -> bool:
    targets = adapter.targets
    if targets == "all-linear":
        return True
    if targets == "attention":
        return name in ATTENTION
    if isinstance(targets, str):
        return re.fullmatch(targets.removeprefix("regex:"), whole) is not None
    return name in targets
