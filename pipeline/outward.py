"""What a recipe lets out of this machine, looked at before anything starts: to trackers, and to the Hub."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from data.secrets import findings, redact
from pipeline.errors import Problem
from pipeline.recipe import Recipe
from pipeline.references import fields


def outward_problems(recipe: Recipe) -> list[Problem]:
    """Everything that is wrong with it."""
    return tracker_problems(recipe) + licence_problems(recipe)


def tracker_problems(recipe: Recipe) -> list[Problem]:
    """Trackers that are asked for and not installed, and settings that they would show and that look like secrets."""
    document = recipe.document
    missing = [
        Problem(document.place(("track", number)), f"track.{number}", f"{name} is not installed: pip install 'recipe-pipeline[{name}]'")
        for number, name in enumerate(recipe.track)
        if find_spec(name) is None
    ]
    return missing + (secret_problems(recipe) if recipe.track else [])


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


def licence_problems(recipe: Recipe) -> list[Problem]:
    """What the recipe publishes without a licence although it is made from models of others."""
    how = recipe.publish
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
