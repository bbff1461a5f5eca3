"""Adapters on their way through a recipe: what each model brings along unmerged, and which stages that makes impossible."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from data.errors import DataError
from pipeline.artifacts import inspect
from pipeline.errors import Problem
from pipeline.launch import cuda_devices
from stages.adapters.bases import base_of
from stages.adapters.combinations import Carried, complaint
from stages.adapters.config import QLora, settings_of
from stages.contract import Adapters

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.references import Reference


def adapter_problems(recipe: "Recipe") -> list[Problem]:
    """Stages whose adapter, or whose models' adapters, cannot be used as the recipe asks."""
    problems: list[Problem] = []
    left: dict[str, Carried] = {}
    for name, config in recipe.stages.items():
        carried = {ref.field: _carried(recipe, ref, left) for ref in recipe.references.get(name, [])}
        situation = config.situation(carried, checkpointing=recipe.hardware.gradient_checkpointing)
        left[name] = Carried()
        if situation is None:
            continue
        begins = next((ref.value for ref in recipe.references.get(name, []) if ref.field == "model"), "")
        if (told := complaint(situation, [begins])) is not None:
            problems.append(recipe.problem(name, *told))
        left[name] = situation.carried.then(situation.own)
    return problems


def base_problems(recipe: "Recipe") -> list[Problem]:
    """Adapters in the user's folders whose base is missing or another one, and four-bit bases on a machine that cannot hold them."""
    problems: list[Problem] = []
    for name, config in recipe.stages.items():
        for ref in recipe.references[name]:
            found = _adapters(recipe, ref)
            if found is not None:
                try:
                    base_of((recipe.root / ref.value).resolve(), found)
                except DataError as error:
                    problems.append(recipe.problem(name, ref.field, str(error)))
        own = getattr(config, "adapter", None)
        if isinstance(own, QLora) and (lacks := _lacks(recipe)):
            problems.append(recipe.problem(name, "adapter.kind", f"qlora needs {lacks}; use kind: lora"))
    return problems


def _lacks(recipe: "Recipe") -> str | None:
    """What of a four-bit base's needs this machine does not have."""
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes, which is not installed (pip install bitsandbytes)"
    return "a CUDA device, and there is none" if recipe.hardware.gpus == 0 or not cuda_devices({}) else None


def _carried(recipe: "Recipe", reference: "Reference", left: Mapping[str, Carried]) -> Carried:
    if reference.form == "stage":
        return left.get(reference.value, Carried())
    found = _adapters(recipe, reference)
    return Carried(tuple(settings_of(one) for one in found.settings)) if found else Carried()


def _adapters(recipe: "Recipe", reference: "Reference") -> Adapters | None:
    """Of a folder of the user's; a Hub repository is seen when it has been fetched, by the stage itself."""
    return getattr(inspect(recipe.root / reference.value), "adapters", None) if reference.form == "folder" else None
