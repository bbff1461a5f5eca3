"""What a recipe takes from the Hub: settled on a commit when a run first needs it, so that a plan never asks the network."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.identity import repository
from pipeline.recipe import Recipe
from pipeline.references import HUB, sources
from pipeline.store import Run
from stages.core.files import write_json


def asked(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Repositories that the recipe names: (`model` or `dataset`, owner/name@revision, where)."""
    for stage, config in recipe.stages.items():
        for reference in recipe.references[stage]:
            if reference.form == "hub":
                yield "model", repository(reference.value), f"stages.{stage}.{reference.field}"
        for field, source in sources(config):
            if source.path.startswith(HUB):
                yield "dataset", repository(source.path), f"stages.{stage}.{field}"


def settle(recipe: Recipe, run: Run) -> dict[str, str]:
    """Commits of all repositories; new ones are asked for and written down. Raises RecipeError if one cannot be found."""
    pins = run.pins()
    wanted = {f"{kind} {name}": (kind, name, where) for kind, name, where in asked(recipe)}
    missing = {key: value for key, value in wanted.items() if key not in pins}
    for key, (kind, name, where) in missing.items():
        pins[key] = _commit(kind, name, where)
    if missing:
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "hub.json", pins)
    return pins


def _commit(kind: str, name: str, where: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, revision = name.partition("@")
    try:
        found = HfApi().repo_info(owner, repo_type=kind, revision=revision or None)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RecipeError(f"{where}: {HUB}{name} cannot be had from the Hub: {' '.join(str(error).split())[:300]}") from error
    return str(found.sha)


def fetch(name: str, commit: str) -> Path:
    """A model's folder on this machine, downloaded if it is not there yet. Only safe weights."""
    from huggingface_hub import snapshot_download

    owner = name.removeprefix(HUB).partition("@")[0]
    return Path(snapshot_download(owner, revision=commit, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]))
