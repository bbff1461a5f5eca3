"""What a command is about: a recipe and its run directory, named by the recipe's file or by the run's folder."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import Problem, RecipeError, StoreError
from pipeline.recipe import Recipe, read
from pipeline.store import Run, read_json

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
        above = path.parent if (path.parent / "overrides.json").is_file() else None
        way = f"it lies in the run {above}: name that" if above else "name a recipe or a folder below runs/"
        raise RecipeError(f"{path} is not a run's folder (it holds no recipe.yaml with its overrides.json); {way}")
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
            way = "leave out --runs" if folder == Path.cwd() else f"work in {os.path.relpath(folder)}"
            return f"; a run of it lies in {os.path.relpath(other)}: name that folder, or {way}"
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
