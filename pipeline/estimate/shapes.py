"""Shapes of models, and how many parameters they have: of a recipe's own settings, or read from a folder's config.json, never from weights."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import RecipeError, suggestion
from stages.core.config import Llama

Head = Literal["words", "score", "value"]
"""What stands on the decoder: logits of the next token, a score without bias, or a value with one."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class Shape:
    """A decoder of LLaMA's kind (Touvron et al. 2023): RMS norms, rotary positions, grouped queries, a gated MLP."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    context: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_size

    def matrices(self) -> Iterator[Matrix]:
        """The linear layers of one decoder layer."""
        for name, outputs in (("q_proj", self.queries), ("k_proj", self.keys), ("v_proj", self.keys)):
            yield Matrix(name, self.hidden, outputs, self.qkv_bias)
        yield Matrix("o_proj", self.queries, self.hidden, self.output_bias)
        for name in ("gate_proj", "up_proj"):
            yield Matrix(name, self.hidden, self.mlp, self.mlp_bias)
        yield Matrix("down_proj", self.mlp, self.hidden, self.mlp_bias)

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer: its linear layers, two norms, and norms of queries and keys where the family has them."""
        return sum(matrix.parameters for matrix in self.matrices()) + 2 * self.hidden + 2 * self.head_size * self.qk_norm

    @property
    def linear(self) -> int:
        """Parameters of the decoder's linear layers: those that multiply every token."""
        return self.layers * sum(matrix.inputs * matrix.outputs for matrix in self.matrices())

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def decoder(self) -> int:
        """Parameters without any head: embeddings, layers, the last norm."""
        return self.embedding + self.layers * self.layer + self.hidden

    def head(self, kind: Head) -> int:
        """Parameters of what stands on the decoder; none of its own where the output matrix is the embedding."""
        return {"words": 0 if self.tied else self.embedding, "score": self.hidden, "value": self.hidden + 1}[kind]

    def parameters(self, kind: Head = "words") -> int:
        """All parameters of the model, shared ones once."""
        return self.decoder + self.head(kind)

    def with_vocabulary(self, tokens: int | None) -> "Shape":
        """The shape after a tokenizer with more tokens was put under it."""
        return replace(self, vocabulary=max(self.vocabulary, tokens or 0))


def of_settings(model: Llama, vocabulary: int) -> Shape:
    """The shape that a recipe's `model: {...}` builds."""
    return Shape(
        vocabulary=vocabulary,
        hidden=model.hidden_size,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads or model.heads,
        head_size=model.hidden_size // model.heads,
        mlp=model.mlp_width,
        context=model.context,
        tied=model.tied_embeddings,
    )


FAMILIES: dict[str, tuple[str, ...]] = {"llama": (), "mistral": (), "qwen2": ("qkv_bias",), "qwen3": ("qk_norm",)}
"""Model types whose shape is known, and what they have beside LLaMA's parts whatever their config.json says."""


def of_folder(folder: Path) -> Shape:
    """The shape that a folder's config.json describes. Raises RecipeError where it has none, or one of another family."""
    file = folder / "config.json"
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} cannot be read, and it is what a model's size is told from: {error}") from error
    return of_config(found, str(file))


def of_config(found: dict[str, Any], where: str) -> Shape:
    """The shape that transformers' settings describe. Raises RecipeError where they are of another family or lack a number."""
    family = found.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise RecipeError(
            f"{where}: model_type: found {family!r}, wanted one whose shape the plan knows ({known}){suggestion(family, FAMILIES)}"
        )
    try:
        hidden, heads = int(found["hidden_size"]), int(found["num_attention_heads"])
        bias = bool(found.get("attention_bias", False))
        own = FAMILIES[str(family)]
        return Shape(
            vocabulary=int(found["vocab_size"]),
            hidden=hidden,
            layers=int(found["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(found.get("num_key_value_heads") or heads),
            head_size=int(found.get("head_dim") or hidden // heads),
            mlp=int(found["intermediate_size"]),
            context=int(found["max_position_embeddings"]),
            tied=bool(found.get("tie_word_embeddings", False)),
            qkv_bias=bias or "qkv_bias" in own,
            output_bias=bias and family != "mistral",
            mlp_bias=bool(found.get("mlp_bias", False)),
            qk_norm="qk_norm" in own,
        )
    except KeyError as error:
        raise RecipeError(f"{where}: {error.args[0]} is missing, and the model's size cannot be told without it") from error
