"""Adapters on their way through a recipe: what each model brings along unmerged, and which stages that makes impossible."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from pipeline.artifacts import inspect
from pipeline.errors import Problem
from stages.adapters.bases import base_of
from stages.adapters.combinations import Carried, complaint
from stages.adapters.config import LowRank, settings_of
from stages.adapters.layers import Decoder, name_problems
from stages.contract import Adapters
from stages.core.config import Llama

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.references import Reference


NONE: Mapping[str, Path] = {}


def adapter_problems(recipe: "Recipe", fetched: Mapping[str, Path] = NONE) -> list[Problem]:
    """Stages whose adapter, or whose models' adapters, cannot be used as the recipe asks. `fetched` has the folders of Hub models that are here."""
    problems: list[Problem] = []
    left: dict[str, Carried] = {}
    for name, config in recipe.stages.items():
        carried = {ref.field: _carried(recipe, ref, left, fetched) for ref in recipe.references.get(name, [])}
        situation = config.situation(carried, checkpointing=recipe.hardware.gradient_checkpointing)
        left[name] = Carried()
        if situation is None:
            continue
        begins = next((ref.value for ref in recipe.references.get(name, []) if ref.field == "model"), "")
        if (told := complaint(situation, [begins])) is not None:
            problems.append(recipe.problem(name, *told))
        left[name] = situation.carried.then(situation.own)
    return problems


def target_problems(recipe: "Recipe") -> list[Problem]:
    """Layers that adapters name and that their model does not have, where the recipe or a folder tells of which kind it is."""
    problems: list[Problem] = []
    decoders: dict[str, Decoder] = {}
    for name, config in recipe.stages.items():
        begins = next((ref for ref in recipe.references.get(name, []) if ref.field == "model"), None)
        own, model = getattr(config, "adapter", None), _decoder(recipe, getattr(config, "model", None), begins, decoders)
        if model is None:
            continue
        decoders[name] = model
        if isinstance(own, LowRank):
            head = "score" if config.makes == "reward-model" else "lm_head"
            told = name_problems(own, replace(model, head=head))
            problems += [recipe.problem(name, f"adapter.{field}", text) for field, text in told]
    return problems


def _decoder(recipe: "Recipe", written: Any, begins: "Reference | None", decoders: Mapping[str, Decoder]) -> Decoder | None:
    if isinstance(written, Llama):
        return Decoder(written.layers, written.tied_embeddings)
    if begins is None or begins.form == "hub":
        return None
    return decoders.get(begins.value) if begins.form == "stage" else _in_folder((recipe.root / begins.value) / "config.json")


def _in_folder(file: Path) -> Decoder | None:
    try:
        says = json.loads(file.read_bytes())
        return Decoder(int(says["num_hidden_layers"]), bool(says.get("tie_word_embeddings"))) if says["model_type"] == "llama" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_problems(recipe: "Recipe", fetched: Mapping[str, Path] = NONE) -> list[Problem]:
    """Adapters in the user's folders or from the Hub whose base is missing or another one."""
    problems: list[Problem] = []
    for name in recipe.stages:
        for ref in recipe.references[name]:
            folder = _folder(recipe, ref, fetched)
            if folder is not None and (found := _adapters(folder)) is not None:
                try:
                    base_of(folder, found)
                except DataError as error:
                    problems.append(recipe.problem(name, ref.field, str(error)))
    return problems


def _carried(recipe: "Recipe", reference: "Reference", left: Mapping[str, Carried], fetched: Mapping[str, Path]) -> Carried:
    if reference.form == "stage":
        return left.get(reference.value, Carried())
    folder = _folder(recipe, reference, fetched)
    found = _adapters(folder) if folder else None
    return Carried(tuple(settings_of(one) for one in found.settings)) if found else Carried()


def _folder(recipe: "Recipe", reference: "Reference", fetched: Mapping[str, Path]) -> Path | None:
    """Where what a stage takes lies before the run; None for a stage's, and for a Hub repository that has not been fetched."""
    if reference.form == "folder":
        return (recipe.root / reference.value).resolve()
    return fetched.get(reference.value) if reference.form == "hub" else None


def _adapters(folder: Path) -> Adapters | None:
    return getattr(inspect(folder), "adapters", None)
