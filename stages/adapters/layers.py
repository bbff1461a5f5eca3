"""Layers that an adapter may name: what is wrong with a name, the same before a stage starts and in it; and the names of a LLaMA's layers. Torch-free."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from stages.adapters.config import LowRank

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Decoder:
    """A LLaMA-style model, as far as the names of its layers go."""

    layers: int
    tied: bool
    """Whether embeddings and head are one matrix."""
    head: str = "lm_head"
    """Name of what stands on it: `lm_head`, or `score` of a reward model."""

    def adaptable(self) -> list[str]:
        """Whole names of linear layers and embeddings, as transformers has them."""
        inside = [*(f"self_attn.{name}" for name in ATTENTION), *(f"mlp.{name}" for name in MLP)]
        rows = [f"model.layers.{number}.{name}" for number in range(self.layers) for name in inside]
        return ["model.embed_tokens", *rows, self.head]

    def others(self) -> list[str]:
        """Last names of layers that can be trained as a whole, but not adapted."""
        return ["self_attn", "mlp", "input_layernorm", "post_attention_layernorm", "norm"]


def name_problems(adapter: LowRank, model: Decoder) -> Iterator[tuple[str, str]]:
    """Fields of an adapter's settings that name what the model does not have or what is tied, and a sentence each."""
    whole = model.adaptable()
    known = {last(name) for name in whole}
    tied = {"embed_tokens", model.head} if model.tied and model.head == "lm_head" else set()
    targets = adapter.targets
    if isinstance(targets, str):
        if targets.startswith("regex:"):
            found = matching(targets, whole)
            lost = [name for name in map(last, found) if name in tied]
            if not found:
                yield "targets", no_match(targets, whole)
            elif lost:
                yield "targets", is_tied(lost[0])
    else:
        for number, name in enumerate(targets):
            if name not in known:
                yield f"targets.{number}", no_layer(name, known, known - {"embed_tokens", model.head})
            elif name in tied:
                yield f"targets.{number}", is_tied(name)
    for number, name in enumerate(adapter.modules_to_save):
        if name not in (saved := known | set(model.others())):
            yield f"modules_to_save.{number}", no_layer(name, saved, saved)


def last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def matching(targets: str, names: Iterable[str]) -> list[str]:
    """Whole names that a `regex:PATTERN` means."""
    return [name for name in names if re.fullmatch(targets.removeprefix("regex:"), name)]


def no_layer(name: str, known: Iterable[str], linear: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"the model has no layer '{name}'{hint} (layers: {', '.join(sorted(linear))})"


def no_match(targets: str, names: Sequence[str]) -> str:
    return f"no layer's whole name matches '{targets.removeprefix('regex:')}' (names are like {', '.join(names[1:4])})"


def is_tied(name: str) -> str:
    return (
        f"'{name}' shares its weights with another layer, so that an adapter on it would merge wrongly; "
        f"name it in modules_to_save, which trains it as a whole, leave it out, or pretrain with model.tied_embeddings: false"
    )
