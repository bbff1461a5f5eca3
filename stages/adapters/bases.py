"""The base of an adapter: named so that it is found again after a run has moved or was published, and known by the digest of its weights. Torch-free."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from stages.contract import Adapters, Artifact
from stages.core.files import digest, digest_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HUB = "hub:"
SAFE = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
"""Files of a Hub model that are fetched, and so looked for: nothing that runs code when it is loaded."""


@dataclass(frozen=True)
class Base:
    """A base as an `adapter_config.json` names it."""

    path: Path
    """Folder with the whole model; absolute."""
    name: str
    """Path relative to the artifact inside a run, absolute outside of it, or `owner/name` on the Hub."""
    revision: str | None = None
    """Commit on the Hub."""


def base_named(path: Path, reference: str, artifact: Path) -> Base:
    """How the artifact of a stage names the base that its input `reference` led to."""
    if reference.startswith(HUB):
        return Base(path, reference.removeprefix(HUB).partition("@")[0], path.name)
    run = artifact.parent.parent
    inside = path.resolve().is_relative_to(run.resolve())
    return Base(path, os.path.relpath(path.resolve(), artifact.resolve()) if inside else str(path.resolve()))


def adapters_in(folder: Path) -> Adapters | None:
    """What a folder says of adapters that are not merged into their base; None for a whole model. Raises DataError for one of another program."""
    says = folder / "artifact.json"
    if says.is_file() and (found := Artifact.model_validate_json(says.read_bytes()).adapters) is not None:
        return found
    if (folder / CONFIG).is_file():
        raise DataError(f"{folder} holds an adapter without its base; give the merged model")
    return None


def folders_of(folder: Path, adapters: Adapters) -> dict[str, Path]:
    """Where each adapter's files lie."""
    return {name: folder if len(adapters.names) == 1 else folder / name for name in adapters.names}


def base_of(folder: Path, adapters: Adapters) -> Base:
    """The base of a folder's adapters, found and verified. Raises DataError if it is not there, or is another one."""
    config = _config(folders_of(folder, adapters)[adapters.names[0]])
    name, revision = str(config.get("base_model_name_or_path")), config.get("revision")
    path = (folder / name).resolve()
    if not path.is_dir():
        path = _on_hub(folder, name, revision)
    if weights_digest(path) != adapters.base_digest:
        raise DataError(f"{folder} is an adapter on another base than {path}: the weights there are not those it was trained on")
    if adapters.base_tokenizer_digest and tokenizer_digest(path) not in (None, adapters.base_tokenizer_digest):
        raise DataError(f"{folder} is an adapter on a base with another tokenizer than the one in {path}")
    return Base(path, name, revision)


def hub_base(folder: Path) -> tuple[str, str | None] | None:
    """Repository and revision of the base of a folder's adapters where that lies on the Hub; None for a whole model, or a base in a folder."""
    found = adapters_in(folder)
    if found is None:
        return None
    config = _config(folders_of(folder, found)[found.names[0]])
    name = str(config.get("base_model_name_or_path"))
    return (name, config.get("revision")) if is_repository(name) and not (folder / name).is_dir() else None


def is_repository(name: str) -> bool:
    """Whether a base is named as the Hub names it."""
    return not name.startswith((".", "/")) and name.count("/") == 1


def _on_hub(folder: Path, name: str, revision: str | None) -> Path:
    if not is_repository(name):
        raise DataError(f"{folder} is an adapter on {name}, which is not there; put the base back, or export the merged model where it is")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=SAFE, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise DataError(f"{folder} is an adapter on {name} of the Hub, which is not on this machine; first: hf download {name}") from error


def weights_digest(folder: Path) -> str:
    """One digest of a model's weights, whatever else lies beside them. Raises DataError if there are none."""
    files = [file for file in folder.glob("*.safetensors") if file.name != WEIGHTS]
    if not files:
        raise DataError(f"{folder} holds no safetensors weights")
    return digest_of({file.name: digest(file) for file in files})


def tokenizer_digest(folder: Path) -> str | None:
    file = folder / "tokenizer.json"
    return digest(file) if file.is_file() else None


def name_base(folders: Sequence[Path], base: Base) -> None:
    """Write the base's name into adapters' settings."""
    for folder in folders:
        config = _config(folder) | {"base_model_name_or_path": base.name, "revision": base.revision}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / CONFIG} cannot be read: {error}") from error
    return dict(found)
