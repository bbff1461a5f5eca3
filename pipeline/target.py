"""What a command is about: a recipe and its run directory, named by the recipe's file or by the run's folder."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST
from pipeline.errors import Problem, RecipeError, StoreError
from pipeline.hub import is_trusted
from pipeline.plan import Step, make_plan
from pipeline.reasons import differences
from pipeline.recipe import Recipe, read
from pipeline.references import Reference
from pipeline.store import Own, Run, read_json

RUNS = "runs"
"""Folder of all runs, where the command line names no other."""


def open_target(name: str, overrides: Sequence[str], runs: str) -> tuple[Recipe, Run]:
    """Recipe and run. Raises RecipeError with all that is wrong in the recipe."""
    recipe, run, problems = read_target(name, overrides, runs)
    if problems:
        raise RecipeError(problems)
    return recipe, run


def read_target(name: str, overrides: Sequence[str], runs: str) -> tuple[Recipe, Run, list[Problem]]:
    """As `open_target`, with the recipe as far as it is right. A run's folder stands for the recipe and overrides that it was last started with."""
    path = Path(name)
    if path.is_dir():
        return _of_run(path, overrides)
    recipe, problems = read(path, overrides)
    return recipe, Run(Path(runs) / recipe.name), problems


def _of_run(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Run, list[Problem]]:
    kept = read_json(path / "overrides.json")
    if not (path / "recipe.yaml").is_file() or not isinstance(kept, dict) or not {"recipe", "overrides"} <= kept.keys():
        raise RecipeError(
            f"{path} is not a run's folder (it holds no recipe.yaml with its overrides.json); name a recipe or a folder below runs/"
        )
    file = path.resolve() / kept["recipe"]
    root = file.parent
    if not file.is_file():
        was = os.path.relpath(file.resolve())
        print(
            f"note: {path} was started from a recipe at {was}, which is not there (any more); its data are looked for beside it",
            file=sys.stderr,
        )
    recipe, problems = read(path / "recipe.yaml", [*kept["overrides"], *overrides], root=root)
    return recipe, Run(path), problems


def results(name: str, runs: str) -> Run:
    """The run whose results a command takes. A run's folder stands for what its links point to, a recipe for its own results and no others.

    Raises RecipeError if nothing of it has run, or if what it names is not there.
    """
    path = Path(name)
    if path.is_dir():
        return Run(path)
    recipe, run = open_target(name, (), runs)
    if not run.path.is_dir():
        other = elsewhere(recipe, run) or f"; first: pipeline run {typed(name, (), runs)}"
        raise RecipeError(f"there is no {run.path}: nothing of {name} has run yet{other}")
    return replace(run, own=_own(recipe, run, f"pipeline run {typed(name, (), runs)}"))


def typed(name: str, overrides: Sequence[str], runs: str) -> str:
    """A target as it is typed behind a command."""
    return shlex.join([name, *overrides, *(["--runs", runs] if runs != RUNS else [])])


def elsewhere(recipe: Recipe, run: Run) -> str:
    """Where another run of the same recipe lies, if this one has not begun: commands look below the working directory. Empty if none is found."""
    if run.path.exists():
        return ""
    file = recipe.file.resolve()
    for folder in dict.fromkeys([*file.parents, *Path.cwd().parents]):
        if _started_from(other := folder / RUNS / recipe.name) == file:
            return f"; a run of it lies in {os.path.relpath(other)}: name that folder, or work in {os.path.relpath(folder)}"
    return ""


def tell_elsewhere(recipe: Recipe, run: Run) -> None:
    """On standard error: that a run is about to begin although there is one of this recipe in another place."""
    if other := elsewhere(recipe, run):
        print(f"note: this run begins in {run.path}{other}", file=sys.stderr)


def _started_from(folder: Path) -> Path | None:
    """The recipe file that a run was last started from."""
    try:
        kept = read_json(folder / "overrides.json")
    except StoreError:
        return None
    return (folder.resolve() / str(kept["recipe"])).resolve() if isinstance(kept, dict) and "recipe" in kept else None


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
    return Own(folders, lacking, tuple(others), recipe.text, trusted=trusted)


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
