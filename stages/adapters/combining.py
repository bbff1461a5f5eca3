"""Several LoRA adapters on one base as one: weighted, summed, or by TIES and DARE; and how alike their updates are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.errors import DataError
from stages.adapters.bases import adapters_in, base_of, folders_of
from stages.adapters.config import Lora, LowRank, settings_of
from stages.adapters.tasks import Combination, Part
from stages.contract import Adapters

COMBINED = "combined_adapter"
TYPES: dict[Combination, str] = {
    # peft's own `linear` adds the factors, whose product has cross terms; `cat` is the exact sum of the updates.
    "linear": "cat",
    "ties": "ties_svd",
    "dare-linear": "dare_linear_svd",
    "dare-ties": "dare_ties_svd",
}


def alike(parts: Sequence[Part]) -> list[Adapters]:
    """What the parts hold, if they can be combined. Raises DataError: each must be one plain LoRA adapter without layers kept whole, all on one base."""
    found: list[Adapters] = []
    for part in parts:
        held = adapters_in(part.folder)
        if held is None:
            raise DataError(f"'{part.name}' is a whole model; only adapters that are not merged can be compared and combined")
        if len(held.names) > 1:
            raise DataError(f"'{part.name}' is a stack of {len(held.names)} adapters; export it alone, merged")
        if not isinstance(own := settings_of(held.settings[0]), Lora) or own.dora:
            raise DataError(f"'{part.name}' is a {own.label} adapter; only LoRA and rsLoRA are updates that can be added")
        if own.modules_to_save:
            raise DataError(
                f"'{part.name}' keeps {', '.join(own.modules_to_save)} as a whole (modules_to_save), which cannot be added; export it alone"
            )
        found.append(held)
    for part, held in zip(parts, found, strict=True):
        if held.base_digest != found[0].base_digest:
            raise DataError(f"'{part.name}' is an adapter on another base than '{parts[0].name}'")
    return found


def combine(model: Any, names: Sequence[str], weights: Sequence[float], how: Combination, density: float, rank: int | None) -> Any:
    """Add one adapter to a peft model that stands for all of these, and make it the active one. The same inputs give the same one."""
    for name in names:
        # peft copies the first adapter's settings, and would scale what is scaled already by the root of the rank once more.
        model.peft_config[name].use_rslora = False
    total = rank or sum(model.peft_config[name].r for name in names)
    svd = {} if how == "linear" else {"density": density, "svd_rank": total, "svd_full_matrices": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # DARE drops at random
        model.base_model.add_weighted_adapter(list(names), list(weights), COMBINED, combination_type=TYPES[how], **svd)
    model.base_model.set_adapter([COMBINED], inference_mode=True)
    model.active_adapter = COMBINED
    return model


@torch.no_grad()
def updates(model: Any, name: str) -> dict[str, Tensor]:
    """What an adapter adds to each weight, (out, in) float32, by the layer's name."""
    from peft.tuners.lora import LoraLayer

    layers = {key: module for key, module in model.named_modules() if isinstance(module, LoraLayer) and name in module.r}
    return {key: layer.get_delta_weight(name).float() for key, layer in layers.items()}


def compared(parts: Sequence[Part], load: Any) -> tuple[tuple[str, ...], list[tuple[str | float, ...]]]:
    """A table: each adapter's shape, the size of its update beside the base's weights, and its cosine to each of the others."""
    held = alike(parts)
    model = load(parts, held)
    deltas = [torch.cat([delta.flatten() for _, delta in sorted(updates(model, name).items())]) for name in names_of(parts)]
    rows: list[tuple[str | float, ...]] = []
    for part, one, delta in zip(parts, held, deltas, strict=True):
        own = settings_of(one.settings[0])
        rank = own.rank if isinstance(own, LowRank) else 0
        cosines = [_cosine(delta, other) for other in deltas]
        rows.append((part.name, own.label, rank, round(float(delta.norm()), 4), *(round(cosine, 4) for cosine in cosines)))
    return ("adapter", "kind", "rank", "norm of its update", *(f"cosine to {part.name}" for part in parts)), rows


def names_of(parts: Sequence[Part]) -> list[str]:
    """Names for the parts' adapters in one model: those that they have may be the same."""
    return [f"part_{number}" for number in range(len(parts))]


def loaded_together(parts: Sequence[Part], held: Sequence[Adapters], load_base: Any, task: Any) -> Any:
    """One base with all parts' adapters on it."""
    from stages.adapters.files import with_adapters

    base = base_of(parts[0].folder, held[0])
    folders = {name: folders_of(part.folder, one)[one.names[0]] for name, part, one in zip(names_of(parts), parts, held, strict=True)}
    return with_adapters(load_base(base.path), folders, task)


def _cosine(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("nan")
    return float(torch.dot(one, other) / (one.norm() * other.norm()).clamp(min=1e-20))
