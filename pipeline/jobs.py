"""From a step of the plan to what its process is told, and what is noted about the machine it runs on."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from data.config import Source
from data.errors import DataError
from data.sources import resolve
from pipeline.artifacts import folder_digest, inspect
from pipeline.errors import Problem, RecipeError
from pipeline.hub import fetch, is_trusted, with_code_beside
from pipeline.identity import CODE, pinned
from pipeline.launch import cores
from pipeline.plan import Plan, Step
from pipeline.references import HUB, Reference, fields, repository, sources
from stages.contract import Artifact, Hardware, Input, Job

HUB_MODELS = "hub"
"""Folder of the run directory: links to models of the Hub whose settings had to be written anew."""
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
)


def make_job(plan: Plan, step: Step, attempt: int, hardware: Hardware) -> Job:
    """The resolved orders of a stage. Raises RecipeError if what it takes is not there."""
    recipe = plan.recipe
    return Job(
        stage=step.name,
        kind=step.kind,
        folder=step.folder.path.resolve(),
        attempt=attempt,
        seed=recipe.seed,
        config=_config(plan, step),
        inputs={reference.field: _input(plan, reference) for reference in recipe.references[step.name]},
        files=_files(plan, step),
        hardware=hardware,
        checkpoints=recipe.checkpoints,
        track=recipe.track,
        divergence=recipe.divergence,
    )


def _config(plan: Plan, step: Step) -> dict[str, Any]:
    """Settings with what only this machine knows: absolute paths of code, commits of Hub data."""
    config: dict[str, Any] = step.config.model_dump(mode="json")
    root, pins = plan.recipe.root, plan.run.pins()
    for field in fields(step.config):
        if isinstance(field.value, str) and field.reference() is None and (code := CODE.match(field.value)):
            _put(config, field.path, f"{root / code[1]}:{code[2]}")
    for path, source in sources(step.config):
        if source.path.startswith(HUB):
            _put(config, f"{path}.path", pinned("dataset", source.path, pins))
    return config


def _put(config: Any, path: str, value: str) -> None:
    *way, last = path.split(".")
    for word in way:
        config = config[int(word) if isinstance(config, list) else word]
    config[int(last) if isinstance(config, list) else last] = value


def _input(plan: Plan, reference: Reference) -> Input:
    if reference.form == "stage":
        step = plan.step(reference.value)
        return Input(
            reference=reference.value,
            kind=type(step.config).makes,
            path=step.folder.artifact.resolve(),
            fingerprint=step.identity.fingerprint,
            digest=(step.manifest or {}).get("digest"),
            trusted=is_trusted(plan, reference),
        )
    if reference.form == "hub":
        mark = plan.run.pins()[f"model {repository(reference.value)}"]
        folder = fetch(reference.value, mark, code=is_trusted(plan, reference))
        if is_trusted(plan, reference):
            owner = repository(reference.value).partition("@")[0]
            folder = with_code_beside(folder, owner, plan.run.path.resolve() / HUB_MODELS / f"{owner.replace('/', '--')}-{mark[:12]}")
    else:
        folder = (plan.recipe.root / reference.value).resolve()
        mark = folder_digest(folder)
    found = inspect(folder)
    if not isinstance(found, Artifact) or found.kind not in reference.kinds:
        what = found if isinstance(found, str) else f"{reference.value} holds a {found.kind}"
        raise RecipeError(f"{reference.field}: {what}; wanted {' or '.join(reference.kinds)}")
    return Input(reference=reference.value, kind=found.kind, path=folder, fingerprint=mark[:12], trusted=is_trusted(plan, reference))


def _files(plan: Plan, step: Step) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for path, source in sources(step.config):
        try:
            found = resolve(source, plan.recipe.root, source_folder(plan, source.stage))
        except DataError as error:
            problems.append(plan.recipe.problem(step.name, f"{path}.path", str(error)))
            continue
        if found:
            files[path] = [file.resolve() for file in found]
    if problems:
        raise RecipeError(problems)
    return files


def source_folder(plan: Plan, stage: str | None) -> Path | None:
    """The artifact that a source's path lies in."""
    if stage is None:
        return None
    return plan.step(stage).folder.artifact if stage in plan.recipe.stages else plan.recipe.root / stage


def located(source: Source, root: Path) -> Source:
    """The source with the file of a format of the user's own where it lies."""
    code = CODE.match(source.format)
    return source.model_copy(update={"format": f"{root / code[1]}:{code[2]}"}) if code else source


def surroundings(hardware: Hardware, argv: list[str]) -> dict[str, Any]:
    """Versions and hardware of an attempt. Never the environment: it holds secrets."""
    return {
        "command": argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": cores(),
        "hardware": hardware.model_dump(mode="json"),
        "gpus": _gpus() if hardware.gpus else [],
        "versions": _versions(),
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of this project, with `+` where files differ from it; None if it does not run from a clone."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return None
    try:
        commit = _git(home, "rev-parse", "HEAD")
        return commit + ("+" if _git(home, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _gpus() -> list[dict[str, Any]]:
    """Name and power limit of each GPU that a stage sees; nothing where NVIDIA's tool cannot be asked."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,power.limit", "--format=csv,noheader,nounits"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
        rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines()]
        return [{"name": name.strip(), "watts": float(watts)} for name, watts in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _git(home: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(home), *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def relative(path: Path) -> str:
    """A path as short as it can be said from here."""
    short = os.path.relpath(path)
    return short if not short.startswith("..") else str(path)
