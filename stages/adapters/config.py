"""Settings of adapters (peft): the kinds, and how the next stage takes them. Torch-free."""

import re
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from data.config import Spec

HandOver = Literal["merge", "stack", "continue"]


def _is_regex(text: str) -> str:
    try:
        re.compile(text.removeprefix("regex:"))
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {error}") from error
    return text


def _listed(value: Any) -> Any:
    """A JSON list: behind the choice of a kind pydantic no longer knows that it came from JSON, where lists stand for tuples."""
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Targets = (
    Literal["attention", "all-linear"]
    | Annotated[str, Field(pattern=r"^regex:.+"), AfterValidator(_is_regex)]
    | Annotated[Names, Field(min_length=1)]
)


class AdapterSpec(Spec):
    """What all kinds share. Whether kinds and policies go together is the table in `stages.adapters.combinations`."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]]
    """How it acts: adds to weights, scales activations, or puts virtual tokens before the text."""
    free: ClassVar[tuple[str, ...]] = ("hand_over",)
    """Settings that bear on training only, and so may differ in an adapter that goes on."""
    hand_over: HandOver = "merge"
    """How the next stage takes the adapter: `merge` into the base's weights in fp32, `stack` a new one on it (it stays, frozen), or `continue` training it."""

    def shape(self) -> dict[str, object]:
        """What an adapter that continues another one must have in common with it."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in self.free}

    @property
    def label(self) -> str:
        """The kind as people call it."""
        raise NotImplementedError

    @property
    def moves_base(self) -> bool:
        """Whether the adapter's start rewrites the base's weights."""
        return False

    @property
    def starts_neutral(self) -> bool:
        """Whether an adapter that has not been trained leaves the model's outputs as they are."""
        return self.family != "prompt"


class LowRank(AdapterSpec):
    """What LoRA on a full and on a quantised base share."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]] = "low-rank"
    free: ClassVar[tuple[str, ...]] = ("hand_over", "dropout", "plus_ratio", "init")
    rank: int = Field(16, gt=0)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a layer's inputs that the update does not see in a step of pretraining or SFT. Reward models and PPO learn without dropout, whatever stands here."""
    targets: Targets = "all-linear"
    """Which linear layers: the attention's, all but the head, by name, or `regex:PATTERN` on whole names. Embeddings and head are refused where they are tied."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones (Kalajdzievski 2023)."""
    dora: bool = False
    """Train direction and magnitude of each weight apart (Liu et al. 2024)."""
    plus_ratio: float | None = Field(None, gt=0)
    """LoRA+ (Hayou et al. 2024): the learning rate of B as a multiple of A's; 16 is usual. The same for both if left out."""
    init: Literal["zero", "gaussian", "orthogonal", "pissa", "olora"] = "zero"
    """Start of A (B is zero, so that the model starts unchanged), or the base's own principal (PiSSA) or orthonormal (OLoRA) part, taken out of the base."""
    modules_to_save: Names = ()
    """Layers that are trained as a whole and kept with the adapter, by name."""

    @property
    def label(self) -> str:
        extras = [name for name, on in (("rsLoRA", self.rslora), ("DoRA", self.dora)) if on]
        return "+".join(extras) or "LoRA"

    @property
    def moves_base(self) -> bool:
        return self.init in ("pissa", "olora")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dora and self.moves_base:
            raise ValueError(f"dora takes its magnitudes from the base, which init: {self.init} rewrites; choose one of them")
        return self


class Lora(LowRank):
    """Low-rank adapters (Hu et al. 2021) on linear layers."""

    kind: Literal["lora"] = "lora"


class QLora(LowRank):
    """LoRA on a base held in 4 bits (NF4, Dettmers et al. 2023); needs bitsandbytes (extra `qlora`). On a CPU it saves memory and costs time."""

    free: ClassVar[tuple[str, ...]] = (*LowRank.free, "dequantise")
    kind: Literal["qlora"] = "qlora"
    double: bool = True
    """Quantise the quantisation constants too: 0.4 bits a weight less."""
    dequantise: bool = False
    """Merge into the base as its 4 bits read, in fp32: the weights that the adapter was trained on, and rounded for good."""

    @property
    def label(self) -> str:
        return "QLoRA"

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.moves_base:
            raise ValueError(f"init: {self.init} rewrites the base's weights, and four bits cannot hold the rest; leave it out")
        if self.dora and self.hand_over == "merge":
            raise ValueError(
                "dora's magnitudes cannot be merged into a base of four bits; say hand_over: stack or continue, or leave dora out"
            )
        return self


class IA3(AdapterSpec):
    """Learned factors on keys, values and the MLP's inner activations (Liu et al. 2022): the fewest parameters of all that merge."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]] = "scaling"
    kind: Literal["ia3"] = "ia3"

    @property
    def label(self) -> str:
        return "IA3"


class Prefix(AdapterSpec):
    """Trained keys and values before the text, in every layer (Li & Liang 2021)."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]] = "prompt"
    kind: Literal["prefix"] = "prefix"
    tokens: int = Field(16, gt=0)
    """Virtual tokens; they take places of the context."""
    projection: bool = False
    """Train the prefix through a two-layer network, which is steadier; only its product is used afterwards."""
    hidden_size: int | None = Field(None, gt=0)
    """Width of that network; the model's if left out."""

    @property
    def label(self) -> str:
        return "prefix"


class PTuning(AdapterSpec):
    """Trained embeddings before the text, made by a small network (P-tuning, Liu et al. 2021)."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]] = "prompt"
    kind: Literal["p-tuning"] = "p-tuning"
    tokens: int = Field(16, gt=0)
    """Virtual tokens; they take places of the context."""
    hidden_size: int | None = Field(None, gt=0)
    """Width of the network; the model's if left out."""

    @property
    def label(self) -> str:
        return "P-tuning"


class Prompt(AdapterSpec):
    """Trained embeddings before the text (Lester et al. 2021)."""

    family: ClassVar[Literal["low-rank", "scaling", "prompt"]] = "prompt"
    free: ClassVar[tuple[str, ...]] = ("hand_over", "text")
    kind: Literal["prompt"] = "prompt"
    tokens: int = Field(16, gt=0)
    """Virtual tokens; they take places of the context."""
    text: str | None = Field(None, min_length=1)
    """Words whose embeddings the virtual tokens start as, repeated or cut to their number; words drawn at random if left out."""

    @property
    def label(self) -> str:
        return "prompt"


KINDS = ("lora", "qlora", "ia3", "prefix", "p-tuning", "prompt")


def _kind_of(value: Any) -> str:
    return str(value.get("kind", "lora") if isinstance(value, dict) else getattr(value, "kind", ""))


def _known_kind(value: Any) -> Any:
    """A wrong kind is told by name; pydantic would speak of tags."""
    if isinstance(value, dict) and (kind := _kind_of(value)) not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"found kind '{kind}', wanted one of {', '.join(KINDS)}{hint}")
    return value


Adapter = Annotated[
    Annotated[Lora, Tag("lora")]
    | Annotated[QLora, Tag("qlora")]
    | Annotated[IA3, Tag("ia3")]
    | Annotated[Prefix, Tag("prefix")]
    | Annotated[PTuning, Tag("p-tuning")]
    | Annotated[Prompt, Tag("prompt")],
    Discriminator(_kind_of),
    BeforeValidator(_known_kind),
]
"""Settings of an adapter; `kind` is `lora` where it is left out."""


def settings_of(value: Any) -> AdapterSpec:
    """An adapter's settings from what an artifact holds of them. Raises pydantic's ValidationError."""
    found: AdapterSpec = TypeAdapter(Adapter).validate_python(value)
    return found
