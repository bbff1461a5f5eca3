"""What a recipe takes from the Hub: settled on a commit when a run first needs it, so that a plan never asks the network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RecipeError
from pipeline.identity import repository
from pipeline.recipe import Recipe
from pipeline.references import HUB, sources
from pipeline.store import Run
from stages.adapters.bases import SAFE, hub_base
from stages.core.files import write_json

if TYPE_CHECKING:
    from pipeline.plan import Plan


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
    """A model's folder on this machine, downloaded if it is not there yet, and the base of its adapters beside it. Only safe weights.

    Raises RecipeError if one of them cannot be had.
    """
    folder = _snapshot(name, commit, f"{HUB}{repository(name)}")
    if (base := hub_base(folder)) is not None:
        _snapshot(*base, f"{HUB}{base[0]}, the base of the adapter {name},")
    return folder


def fetched(recipe: Recipe, pins: Mapping[str, str]) -> dict[str, Path]:
    """Folders of the recipe's Hub models that are on this machine already, by reference. The network is not asked."""
    return {
        reference.value: folder
        for references in recipe.references.values()
        for reference in references
        if reference.form == "hub"
        and (commit := pins.get(f"model {repository(reference.value)}"))
        and (folder := _here(reference.value, commit))
    }


def fetch_all(plan: "Plan") -> None:
    """The Hub models of all stages that are to work, before the first of them starts. Raises RecipeError with the stages whose model cannot be had."""
    problems = []
    pins = plan.run.pins()
    for step in plan.steps:
        for reference in plan.recipe.references[step.name] if step.works else ():
            if reference.form != "hub":
                continue
            try:
                fetch(reference.value, pins[f"model {repository(reference.value)}"])
            except RecipeError as error:
                problems.append(plan.recipe.problem(step.name, reference.field, str(error)))
    if problems:
        raise RecipeError(problems)


def _snapshot(name: str, revision: str | None, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    owner = repository(name).partition("@")[0]
    try:
        return Path(snapshot_download(owner, revision=revision, allow_patterns=SAFE))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RecipeError(f"{what} cannot be had from the Hub: {' '.join(str(error).split())[:300]}") from error


def _here(name: str, commit: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository(name).partition("@")[0], revision=commit, allow_patterns=SAFE, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
