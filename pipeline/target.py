"""What a command is about: a recipe and its run directory, named by the recipe's file or by the run's folder."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load
from pipeline.store import Run, read_json


def open_target(name: str, overrides: Sequence[str], runs: str) -> tuple[Recipe, Run]:
    """Recipe and run. A run's folder stands for the recipe and overrides that it was last started with."""
    path = Path(name)
    if path.is_dir():
        return _of_run(path, overrides)
    recipe = load(path, overrides)
    return recipe, Run(Path(runs) / recipe.name)


def _of_run(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Run]:
    kept = read_json(path / "overrides.json")
    if not (path / "recipe.yaml").is_file() or not isinstance(kept, dict):
        raise RecipeError(f"{path} is not a run's folder (it holds no recipe.yaml); name a recipe or a folder below runs/")
    root = (path.resolve() / kept["recipe"]).parent
    return load(path / "recipe.yaml", [*kept["overrides"], *overrides], root=root), Run(path)


def run_folder(name: str, runs: str) -> Path:
    """The run's folder, named by itself or by its recipe. Raises RecipeError if it is not there."""
    path = Path(name)
    if path.is_dir():
        return path
    folder = open_target(name, (), runs)[1].path
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not there: nothing of {name} has run yet; first: pipeline run {name}")
    return folder
