"""Looks at data and artifacts before anything starts: every local source is read as its stage will read it, hand-offs are compared."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.formats import Chat, Preference, Prompt, Record, Text
from data.records import Finding, check_sources
from data.secrets import findings, redact
from data.sources import resolve
from pipeline.adapters import base_problems
from pipeline.artifacts import end_is_padding, inspect, lacks_template, unfit
from pipeline.errors import Problem, RecipeError
from pipeline.jobs import located, source_folder
from pipeline.plan import Plan, Step, tokenizer_problems
from pipeline.recipe import Recipe
from pipeline.references import fields, wanted_sources

MEND = "a tokenizer stage (`existing: ...`) adds one; name it as `tokenizer` of the stage that begins with this model"
FEW = 20
WARNING = "warning: "
"""Begins a note on data that looks wrong."""
RECORDS: dict[str | None, type[Record] | None] = {None: None, "text": Text, "chat": Chat, "preference": Preference, "prompt": Prompt}


def check_all(plan: Plan, steps: Sequence[Step]) -> list[str]:
    """What was noticed about the data of these stages. Raises RecipeError with everything that is wrong."""
    problems = (
        tokenizer_problems(plan)
        + length_problems(plan)
        + folder_problems(plan)
        + tracker_problems(plan)
        + licence_problems(plan)
        + base_problems(plan.recipe)
    )
    notes: list[str] = []
    seen: dict[tuple[str, str | None], list[Finding]] = {}
    for step in steps:
        for path, source, wants in wanted_sources(step.config):
            key = (source.model_dump_json(), wants)
            if key in seen:
                continue
            seen[key] = _findings(plan, source, wants)
            for finding in seen[key]:
                if finding.problem:
                    problems.append(plan.recipe.problem(step.name, path, finding.text))
                else:
                    notes.append(f"{WARNING if finding.warning else ''}stages.{step.name}.{path}: {finding.text}")
    if problems:
        raise RecipeError(problems)
    return notes


def length_problems(plan: Plan) -> list[Problem]:
    """Stages that ask for more tokens than the models that they take, as far as the recipe and folders tell."""
    problems: list[Problem] = []
    left: dict[str, int | None] = {}
    for name, config in plan.recipe.stages.items():
        contexts: dict[str, int | None] = {}
        for reference in plan.recipe.references[name]:
            found = inspect(plan.recipe.root / reference.value) if reference.form == "folder" else None
            contexts[reference.field] = left[reference.value] if reference.form == "stage" else getattr(found, "context_length", None)
        if (complaint := config.too_long(contexts)) is not None:
            problems.append(plan.recipe.problem(name, *complaint))
        left[name] = config.context_left(contexts)
    return problems


def folder_problems(plan: Plan) -> list[Problem]:
    """Models that began as a folder whose tokenizer does not fit them, pads with their end, or lacks the chat template that a stage renders.

    A tokenizer stage adds what is missing, and the first stage that names it as `tokenizer` beside `model` passes it on.
    """
    problems: list[Problem] = []
    lacking: dict[str, str] = {}
    for name, config in plan.recipe.stages.items():
        if config.makes == "tokenizer" or any(reference.field == "tokenizer" for reference in plan.recipe.references[name]):
            continue
        renders = any(wants in ("chat", "preference", "prompt") for _, _, wants in wanted_sources(config))
        for reference in plan.recipe.references[name]:
            folder = plan.recipe.root / reference.value if reference.form == "folder" else None
            lack = _lacks(folder) if folder else lacking.get(reference.value)
            misfit = _misfit(folder) if folder else None
            if misfit or (lack and renders):
                problems.append(plan.recipe.problem(name, reference.field, misfit or lack or ""))
            elif lack:
                lacking[name] = lack
    return problems


def _misfit(folder: Path) -> str | None:
    return unfit(folder) or (
        f"{folder} pads with the token that ends a text, so that the end could not be learned; {MEND}" if end_is_padding(folder) else None
    )


def _lacks(folder: Path) -> str | None:
    return f"{folder} has no chat template; {MEND}" if lacks_template(folder) else None


def tracker_problems(plan: Plan) -> list[Problem]:
    """Trackers that are asked for and not installed, and settings that they would show and that look like secrets."""
    document = plan.recipe.document
    missing = [
        Problem(document.place(("track", number)), f"track.{number}", f"{name} is not installed: pip install 'recipe-pipeline[{name}]'")
        for number, name in enumerate(plan.recipe.track)
        if find_spec(name) is None
    ]
    return missing + (secret_problems(plan.recipe) if plan.recipe.track else [])


def licence_problems(plan: Plan) -> list[Problem]:
    """What the recipe publishes without a licence although it is made from models of others."""
    recipe, how = plan.recipe, plan.recipe.publish
    if how is None or how.license is not None:
        return []
    names = _with_ancestors(recipe, how.chosen({name: config.makes for name, config in recipe.stages.items()}))
    outside = [reference.value for name in names for reference in recipe.references[name] if reference.form != "stage"]
    told = f"is made from {', '.join(sorted(set(outside)))}: read its licence, and add `license`, under which this may be passed on"
    return [Problem(recipe.document.place(("publish",)), "publish", told)] if outside else []


def _with_ancestors(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Stages and all that they are made from, in the recipe's order."""
    found = set(names)
    for name in reversed(recipe.stages):
        if name in found:
            found |= {reference.value for reference in recipe.references[name] if reference.form == "stage"}
    return [name for name in recipe.stages if name in found]


def secret_problems(recipe: Recipe) -> list[Problem]:
    """Settings of stages that look like secrets. The message does not hold them."""
    told = "looks like {}, and `track` shows every setting: leave it out, and hand it on in the environment"
    found = [
        recipe.problem(name, field.path, told.format(looks[0].what))
        for name, config in recipe.stages.items()
        for field in fields(config)
        if isinstance(field.value, str) and (looks := findings(field.value))
    ]
    return [replace(problem, where=redact(problem.where)) for problem in found]  # the place of an override is its text


def _findings(plan: Plan, source: Source, wants: str | None) -> list[Finding]:
    """What a source's rows are; nothing for data that a stage has yet to make, and of what it has made only what is wrong."""
    made = source.stage is not None and source.stage in plan.recipe.stages
    if made and plan.step(str(source.stage)).manifest is None:
        return []
    try:
        files = resolve(source, plan.recipe.root, source_folder(plan, source.stage))
    except DataError as error:
        return [Finding(True, str(error))]
    source = located(source, plan.recipe.root)
    if made:  # our own rows are well formed; a few of them show whether they are the right ones
        few = source.model_copy(update={"limit": FEW})
        return [finding for finding in check_sources([few], [files], RECORDS[wants]) if finding.problem]
    return check_sources([source], [files], RECORDS[wants])
