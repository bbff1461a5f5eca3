"""What a recipe takes from the Hub: settled on a commit when a run first needs it, so that a plan never asks the network."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data.errors import DataError
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.references import HUB, Reference, repository, sources
from pipeline.store import Run
from stages.adapters.bases import SAFE, hub_base
from stages.core.files import write_json
from stages.core.trust import foreign_code, own_code, without_repository

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
    if not re.fullmatch(r"[0-9a-f]{40}", str(found.sha)):
        raise RecipeError(f"{where}: the Hub names no commit of {HUB}{name}: found {found.sha!r}, wanted 40 hexadecimal digits")
    if outside := [file.rfilename for file in getattr(found, "siblings", None) or () if _leads_out(file.rfilename)]:
        raise RecipeError(
            f"{where}: {HUB}{name} lists a file {outside[0]!r}, which would lie outside of its folder; nothing of it is fetched"
        )
    return str(found.sha)


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def check_trust(recipe: Recipe, pins: Mapping[str, str]) -> None:
    """Raises RecipeError where the recipe trusts the code of one commit and the run has settled on another."""
    for trusted in recipe.trusted:
        owner, commit = trusted.split("@")
        for key, settled in pins.items():
            kind, name = key.split(" ")
            if kind == "model" and name.partition("@")[0] == owner and settled != commit:
                raise RecipeError(
                    f"trust_remote_code names commit {commit} of {owner}, and {HUB}{name} is {settled}: read the code there, and name that commit, "
                    f"or take {HUB}{trusted}"
                )


def fetch(name: str, commit: str, *, code: bool = False) -> Path:
    """A model's folder on this machine, downloaded if it is not there yet, and the base of its adapters beside it. Only safe weights, and Python only
    where it is trusted (`code`).

    Raises RecipeError if one of them cannot be had, or if a file would lie outside of the repository's own folder.
    """
    folder = _snapshot(name, commit, f"{HUB}{repository(name)}", code=code)
    if code and (complaint := foreign_code(folder, repository(name).partition("@")[0])):
        raise RecipeError(f"{HUB}{repository(name)}: {complaint}")
    try:
        base = hub_base(folder)
    except DataError as error:
        raise RecipeError(f"{HUB}{repository(name)}: {error}") from error
    if base is not None:
        _snapshot(*base, f"{HUB}{base[0]}, the base of the adapter {name},")
    return folder


def with_code_beside(folder: Path, owner: str, place: Path) -> Path:
    """A fetched model whose settings name code of their own repository (`owner/name--module.Class`) as a folder of links at `place`, whose settings do
    not: transformers would ask the Hub for that code, at whatever state it is in there. Any other model as it is."""
    if not any(name.startswith(f"{owner}--") for name in own_code(folder)):
        return folder
    shutil.rmtree(place, ignore_errors=True)
    for file in [each for each in folder.rglob("*") if each.is_file()]:
        link = place / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())
    for file in place.glob("*config.json"):
        says = json.loads(file.read_bytes())
        file.unlink()
        write_json(file, without_repository(says, owner))
    return place


def fetched(recipe: Recipe, pins: Mapping[str, str]) -> dict[str, Path]:
    """Folders of the recipe's Hub models that are on this machine already, and wholly, by reference. The network is not asked."""
    return {
        reference.value: folder
        for references in recipe.references.values()
        for reference in references
        if reference.form == "hub"
        and (commit := pins.get(f"model {repository(reference.value)}"))
        and (folder := _here(reference.value, commit))
        and _is_whole(folder)
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
                fetch(reference.value, pins[f"model {repository(reference.value)}"], code=is_trusted(plan, reference))
            except RecipeError as error:
                problems.append(plan.recipe.problem(step.name, reference.field, str(error)))
    if problems:
        raise RecipeError(problems)


def is_trusted(plan: "Plan", reference: Reference) -> bool:
    """Whether the recipe trusts the code of a model: one of the Hub at a commit that it names, or what stages made of such a model."""
    if reference.form == "hub":
        name = repository(reference.value)
        return f"{name.partition('@')[0]}@{plan.run.pins().get(f'model {name}')}" in plan.recipe.trusted
    above = plan.recipe.references.get(reference.value, []) if reference.form == "stage" else []
    return any(is_trusted(plan, each) for each in above)


def _snapshot(name: str, revision: str | None, what: str, *, code: bool = False) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    owner = repository(name).partition("@")[0]
    try:
        folder = Path(snapshot_download(owner, revision=revision, allow_patterns=[*SAFE, *(["*.py"] if code else [])]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RecipeError(f"{what} cannot be had from the Hub: {' '.join(str(error).split())[:300]}") from error
    own = folder.parent.parent.resolve()  # snapshots hold links to the files of the repository's cache
    outside = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.resolve().is_relative_to(own)]
    if outside:
        raise RecipeError(f"{what}: {outside[0]} leads out of the repository's folder {own}; nothing of it is loaded")
    return folder


def _here(name: str, commit: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository(name).partition("@")[0], revision=commit, allow_patterns=SAFE, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _is_whole(folder: Path) -> bool:
    """Whether nothing of a model, or of its adapters and their base, is left to fetch: a download that was interrupted leaves some of its files."""
    try:
        base = hub_base(folder)
    except DataError:
        return False
    there = folder if base is None else _here(base[0], base[1])
    return there is not None and _has_weights(there)


def _has_weights(folder: Path) -> bool:
    names = {file.name for file in folder.glob("*.safetensors")}
    counts = [int(found[1]) for name in names if (found := re.search(r"-of-(\d+)\.safetensors$", name))]
    return len(counts) == max(counts) if counts else bool(names)
