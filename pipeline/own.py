"""A recipe's own results, as chat, serve, export, publish, report and compare take them: none that other settings made, unless the run's folder is named."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST
from pipeline.errors import RecipeError, StoreError
from pipeline.hub import is_trusted
from pipeline.plan import Step, make_plan
from pipeline.reasons import differences
from pipeline.recipe import Recipe
from pipeline.references import Reference
from pipeline.store import Own, Run
from pipeline.target import elsewhere, open_target, typed


def run_of(name: str, runs: str) -> Run:
    """The run whose results a command takes. A run's folder stands for what its links point to, a recipe for its own results and no others.

    Raises RecipeError if nothing of it has run, or if what it names is not there.
    """
    path = Path(name)
    if path.is_dir():
        return Run(path)
    recipe, run = open_target(name, (), runs)
    if not run.path.is_dir():
        other = elsewhere(recipe, run) or f": nothing of {name} has run yet; first: pipeline run {typed(name, (), runs)}"
        raise RecipeError(f"there is no {run.path}{other}")
    return replace(run, own=_own(recipe, run, f"pipeline run {typed(name, (), runs)}"))


def tell_others(run: Run) -> None:
    """On standard error: stages of the recipe that are left out because the run holds another result of them."""
    for name in run.own.replaced if run.own is not None else ():
        print(f"note: {run.lacks(name)}", file=sys.stderr)


def _own(recipe: Recipe, run: Run, make: str) -> Own:
    try:
        plan = make_plan(recipe, run)
    except RecipeError as error:
        *before, last = error.problems
        told = f"{last.message}; what is done can still be had by the run's folder: name {run.path} instead of the recipe"
        raise RecipeError([*before, replace(last, message=told)]) from error
    steps = plan.steps
    folders = {step.name: step.folder for step in steps if step.manifest is not None or _is_begun(step)}
    open_steps = [step for step in steps if step.manifest is None]
    others = {step.name: other for step in open_steps if (other := _instead(run, step)) is not None}
    lacking = {step.name: _lack(recipe, run, step, others.get(step.name), make) for step in open_steps}
    trusted = tuple(folders[name].artifact for name in folders if is_trusted(plan, Reference("", name, ())))
    return Own(folders, lacking, tuple(others), recipe.text, make, trusted=trusted)


def _is_begun(step: Step) -> bool:
    return not step.redo and (step.folder.path / "job.json").is_file() and not (step.folder.path / MANIFEST).exists()


def _instead(run: Run, step: Step) -> dict[str, Any] | None:
    """Manifest of another result to which the stage's link points."""
    linked = run.current(step.name)
    try:
        return linked.manifest() if linked is not None and linked.path != step.folder.path else None
    except StoreError:
        return None


def _lack(recipe: Recipe, run: Run, step: Step, other: dict[str, Any] | None, make: str) -> str:
    if other is None:
        return f"stage '{step.name}' of {recipe.file} is not done ({step.reason}); to make it: {make}"
    names = {reference.field: reference.value for reference in recipe.references[step.name]}
    changes = "; ".join(differences(other.get("identity", {}), step.identity.value, names)) or "another identity"
    return (
        f"{run.path / step.name} is not what {recipe.file} asks for ({changes}); to make that: {make}; "
        f"to take the one that is there, name {run.path} instead of the recipe"
    )
