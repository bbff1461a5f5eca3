"""Whose code may run. A model that brings Python of its own is refused, unless the recipe's `trust_remote_code` names its repository and commit.

Which inputs these are the orchestrator decides, and says in the job; what a stage makes of such a model is such a model. Torch-free.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from stages.contract import Job

REFUSED = "its model is code of its own, which runs only where the recipe's `trust_remote_code` names its repository and commit: owner/name@COMMIT"

_trusted: set[Path] = set()
"""Folders of this process's job, resolved."""


def trust(job: Job) -> None:
    """From here on, in this process: code in the inputs that the job trusts may run, and so may what the stage leaves of it."""
    inputs = [each.path for each in job.inputs.values() if each.trusted]
    trust_folders([*inputs, *([job.folder] if inputs else [])])


def trust_folders(folders: Iterable[Path]) -> None:
    """From here on, in this process: code in these folders may run, and no other."""
    _trusted.clear()
    _trusted.update(folder.resolve() for folder in folders)


def strict(folder: Path) -> dict[str, Any]:
    """Options of every `from_pretrained` for a folder: local files only, and no code that is not trusted.

    Raises DataError for a trusted folder whose code would come from another place.
    """
    place = folder.resolve()
    trusted = any(each in (place, *place.parents) for each in _trusted)
    if trusted and (complaint := foreign_code(place)):
        raise DataError(f"{folder}: {complaint}")
    return {"local_files_only": True, "trust_remote_code": trusted}


def own_code(folder: Path) -> list[str]:
    """Classes of its own that a model's settings ask for (`auto_map`): `module.Class`, or `owner/name--module.Class` of another repository."""
    found: list[str] = []
    for file in sorted(folder.glob("*config.json")):
        try:
            says = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        found += _texts(says.get("auto_map") if isinstance(says, dict) else None)
    return found


def foreign_code(folder: Path, repository: str = "") -> str | None:
    """That a model's code lies in another repository than its own, of which nobody has named a commit; None if it is the model's own, or there is none."""
    elsewhere = next((name for name in own_code(folder) if "--" in name and name.partition("--")[0] != repository), None)
    if elsewhere is None:
        return None
    return (
        f"its code is that of another repository, {elsewhere.partition('--')[0]} (auto_map), at whatever state that is in; trust is for one commit of "
        "one repository: take a model that holds its code itself"
    )


def _texts(value: Any) -> Iterator[str]:
    """Texts anywhere in it: tokenizers name a slow and a fast class."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def without_repository(says: dict[str, Any], repository: str) -> dict[str, Any]:
    """Settings of a model in which classes of its own repository are named as those beside them."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value.removeprefix(f"{repository}--")
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return {**says, "auto_map": plain(says["auto_map"])} if "auto_map" in says else says


def wants_code(error: Exception) -> bool:
    """Whether transformers refused to load a model because it is code of its own."""
    return "trust_remote_code" in str(error)
