"""What a recipe lets out of this machine, looked at before anything starts: to trackers, and to the Hub."""

from collections.abc import Sequence
from dataclasses import replace

from data.secrets import findings, redact
from pipeline.errors import Problem
from pipeline.recipe import Recipe
from pipeline.references import fields


def outward_problems(recipe: Recipe) -> list[Problem]:
    """Everything that is wrong with it."""
    return secret_problems(recipe) + licence_problems(recipe)


def secret_problems(recipe: Recipe) -> list[Problem]:
    """Settings of stages that look like secrets, where trackers would show them. The message does not hold them."""
    if not recipe.track:
        return []
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
