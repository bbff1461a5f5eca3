"""What an inspection is told about a stage, found in its settings by annotations and by the names that all stages share.

`Wants` says which record a source becomes; `held_out` and `validation`, `learn`, `max_tokens`, `context` and `sampling.max_new_tokens` mean the same
wherever they stand. Nothing here knows a stage by name.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.cleaning.config import Cleaning
from data.config import Source
from data.errors import DataError
from data.inspection.report import Group, Task
from data.sources import HUB, resolve
from pipeline.errors import RecipeError, suggestion
from pipeline.identity import pinned
from pipeline.jobs import located, source_folder
from pipeline.plan import Plan, Step
from pipeline.references import Reference, fields, repository, wanted_sources

BEARERS = {"tokenizer", "causal-lm", "reward-model"}
"""Artifact kinds that hold a tokenizer."""


@dataclass(frozen=True)
class Bearer:
    """An artifact that can be looked into, and what it is called."""

    place: str
    """Folder, or `hub:owner/name[@revision]`."""
    name: str


def make_task(plan: Plan, name: str, *, samples: int, rows: int) -> Task:
    """The inspection of one stage. Raises RecipeError if there is no such stage, or none of its data is there yet."""
    if name not in plan.recipe.stages:
        known = list(plan.recipe.stages)
        raise RecipeError(f"no stage '{name}' in {plan.recipe.file} (stages: {', '.join(known)}){suggestion(name, known)}")
    step = plan.step(name)
    groups, notes = _groups(plan, step)
    bearer = next(_bearers(plan, name), None)
    if bearer is None and any(group.wants for group in groups):
        notes.append(_missing(plan, name))
    values = {field.path: field.value for field in fields(step.config)}
    whole = not any(group.field == "validation" for group in groups) and "validation" in values
    return Task(
        stage=name,
        groups=tuple(groups),
        tokenizer=bearer.place if bearer else None,
        tokenizer_name=bearer.name if bearer else "",
        context=_context(plan, name),
        answer_room=_number(values.get("sampling.max_new_tokens")) or 0,
        learn=values.get("learn", "all"),
        cleaning=_cleaning(step.config),
        held_out=values.get("held_out") if whole else None,
        samples=samples,
        rows=rows,
        notes=tuple(notes),
    )


def _cleaning(config: Any) -> Cleaning | None:
    """What a stage that cleans text does to it."""
    return (
        Cleaning.model_validate({name: getattr(config, name) for name in Cleaning.model_fields}) if isinstance(config, Cleaning) else None
    )


def _groups(plan: Plan, step: Step) -> tuple[list[Group], list[str]]:
    """A stage's sources by the field that lists them, and what is not there yet."""
    listed: dict[str, list[tuple[Source, str | None, tuple[Path, ...]]]] = {}
    missing: list[str] = []
    found = list(wanted_sources(step.config))
    for path, source, wants in found:
        if source.stage in plan.recipe.stages and plan.step(str(source.stage)).manifest is None:
            missing.append(
                f"{path}: '{source.stage}' has not made {source.path} yet; first: pipeline run {plan.recipe.file} --until {source.stage}"
            )
            continue
        try:
            files = tuple(file.resolve() for file in resolve(source, plan.recipe.root, source_folder(plan, source.stage)))
        except DataError as error:
            raise RecipeError([plan.recipe.problem(step.name, f"{path}.path", str(error))]) from error
        if source.path.startswith(HUB):
            source = source.model_copy(update={"path": pinned("dataset", source.path, plan.run.pins())})
        listed.setdefault(path.rpartition(".")[0], []).append((located(source, plan.recipe.root), wants, files))
    if not found:
        raise RecipeError(f"stage '{step.name}' reads no data, so there is nothing to inspect")
    if not listed:
        raise RecipeError("\n".join(dict.fromkeys(missing)))
    return [_group(field, rows) for field, rows in listed.items()], missing


def _group(field: str, rows: list[tuple[Source, str | None, tuple[Path, ...]]]) -> Group:
    wants: Any = rows[0][1]
    return Group(field=field, wants=wants, sources=tuple(row[0] for row in rows), files=tuple(row[2] for row in rows))


def _bearers(plan: Plan, stage: str) -> Iterator[Bearer]:
    """Where the stage's tokenizer can be had, nearest first. A model that is not trained yet will have the tokenizer that it is trained with."""
    for reference in _carrying(plan, stage):
        if reference.form == "hub":
            commit = plan.run.pins().get(f"model {repository(reference.value)}")
            owner = reference.value.partition("@")[0]
            yield Bearer(f"{owner}@{commit}" if commit else reference.value, reference.value)
        elif reference.form == "folder":
            yield Bearer(str((plan.recipe.root / reference.value).resolve()), reference.value)
        elif plan.step(reference.value).manifest is not None:
            yield Bearer(str(plan.step(reference.value).folder.artifact.resolve()), reference.value)
        elif type(plan.step(reference.value).config).makes != "tokenizer":
            yield from _bearers(plan, reference.value)


def _carrying(plan: Plan, stage: str) -> list[Reference]:
    return [reference for reference in plan.recipe.references[stage] if BEARERS & set(reference.kinds)]


def _missing(plan: Plan, stage: str) -> str:
    names = [reference.value for reference in _carrying(plan, stage) if reference.form == "stage"]
    if not names:
        return "this stage takes no tokenizer, so that its data are shown without tokens"
    return (
        f"there is no tokenizer yet ('{names[0]}' is not done), so that the data are shown without tokens; "
        f"the first stage that makes one is enough: pipeline run {plan.recipe.file} --until {_maker(plan, names[0])}"
    )


def _maker(plan: Plan, stage: str) -> str:
    """The stage furthest up from which the tokenizer comes."""
    above = [reference.value for reference in _carrying(plan, stage) if reference.form == "stage"]
    return _maker(plan, above[0]) if above else stage


def _context(plan: Plan, stage: str) -> int | None:
    """Longest sequence: what the settings say, and what the model takes."""
    values = {field.path: field.value for field in fields(plan.recipe.stages[stage])}
    known = [_number(values.get("max_tokens")), _model_context(plan, stage)]
    return min((limit for limit in known if limit is not None), default=None)


def _model_context(plan: Plan, stage: str) -> int | None:
    """The context of the stage's own new model, or that of the model which it starts from."""
    for field in fields(plan.recipe.stages[stage]):
        if field.path.rpartition(".")[2] == "context" and (own := _number(field.value)) is not None:
            return own
    for reference in _carrying(plan, stage):
        if reference.form == "stage":
            step = plan.step(reference.value)
            found = _stated(step.folder.artifact) if step.manifest is not None else _model_context(plan, reference.value)
        else:
            found = _stated(plan.recipe.root / reference.value) if reference.form == "folder" else None
        if found is not None:
            return found
    return None


def _stated(folder: Path) -> int | None:
    """The context that a model's folder states."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return _number(config.get("text_config", config).get("max_position_embeddings"))
    except (OSError, ValueError, AttributeError):
        return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
