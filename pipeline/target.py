"""What a command is about: a recipe and its run directory, named by the recipe's file or by the run's folder."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import Problem, RecipeError
from pipeline.recipe import Recipe, read
from pipeline.store import Run, read_json


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
    root = (path.resolve() / kept["recipe"]).parent
    recipe, problems = read(path / "recipe.yaml", [*kept["overrides"], *overrides], root=root)
    return recipe, Run(path), problems


def run_folder(name: str, runs: str) -> Path:
    """The run's folder, named by itself or by its recipe. Raises RecipeError if it is not there."""
    path = Path(name)
    if path.is_dir():
        return path
    folder = open_target(name, (), runs)[1].path
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there: nothing of {name} has run yet; first: pipeline run {name}")
    return folder
