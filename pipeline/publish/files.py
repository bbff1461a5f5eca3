"""Which files of an artifact are sent, and the clean folder they are sent from.

An allowlist, because the client sends whatever lies in a folder, links to files outside included: nothing that is not named here leaves the machine.
"""

import fnmatch
import json
import os
import shutil
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.secrets import findings
from pipeline.publish.errors import PublishError
from pipeline.publish.finished import Finished
from pipeline.publish.markdown import unescaped
from pipeline.publish.places import Place
from pipeline.publishing import MAIN
from stages.core.files import digest

ALLOWED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "prompt_encoder.safetensors",
    "*/adapter_config.json",
    "*/adapter_model.safetensors",
    "*/prompt_encoder.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "artifact.json",
    "LICENSE",
    "LICENSE.*",
    "NOTICE",
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
"""Weights of an earlier publication that this one does not have are deleted, so that no loader picks them up."""
TEXTS = (".json", ".txt", ".jinja", ".md", "")
"""Endings of files that are searched for secrets as a whole; of weights only the header is text."""
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Staged:
    """A folder that holds exactly what is sent."""

    folder: Path
    files: dict[str, int]
    """Sizes by name."""
    left_out: tuple[str, ...]


def stage_files(stage: Finished, folder: Path, bases: Mapping[str, Place]) -> Staged:
    """Put the allowed files of a stage into an empty folder, each checked against the manifest.

    `bases` says under which repository a local base of an adapter is published.
    """
    names = sorted(name.removeprefix("artifact/") for name in stage.manifest["files"] if name.startswith("artifact/"))
    allowed = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED)]
    for name in allowed:
        _take(stage, name, folder / name)
    _check_weights(stage, folder, allowed)
    for name in allowed:
        if Path(name).name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
            _clean(folder / name, stage, bases)
    # A page of our own takes the place of the artifact's.
    return Staged(folder, sizes(folder), tuple(name for name in names if name not in allowed and name != "README.md"))


def sizes(folder: Path) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}


def refuse_secrets(folder: Path, known: Sequence[str]) -> None:
    """Raises PublishError if any text that would be sent holds what looks like a secret."""
    for name in sizes(folder):
        file = folder / name
        if file.suffix == ".safetensors":
            text = _header(file).decode("utf-8", errors="replace")
        elif file.suffix in TEXTS:
            text = file.read_text(encoding="utf-8", errors="replace")
        else:
            continue
        found = findings(text, known) or findings(unescaped(text), known)
        if found:
            raise PublishError(
                f"{name}: {found[0]}; nothing was sent. Remove it where it comes from (settings, data or recipe) and run the stage again"
            )


def _take(stage: Finished, name: str, target: Path) -> None:
    """One regular file into the folder: linked where the disk allows it, else copied; then hashed, so that what is checked is what is sent."""
    source, wanted = stage.folder.artifact / name, stage.manifest["files"][f"artifact/{name}"]
    artifact = stage.folder.artifact
    places = [artifact, *(artifact / parent for parent in Path(name).parents), source]
    if any(place.is_symlink() for place in places):
        raise PublishError(f"{source} is a link, or lies behind one; only regular files are published")
    if not source.exists() or not stat.S_ISREG(source.lstat().st_mode):
        raise PublishError(f"{source} is missing; run the recipe again to make it")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        _link_or_copy(source, target)
    else:
        shutil.copyfile(source, target)  # small, and some are rewritten below
    if (found := digest(target)) != wanted["sha256"]:
        raise PublishError(
            f"{source} is not what its manifest says (SHA-256 {found[:12]}…, wanted {wanted['sha256'][:12]}…); run the stage again"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target)


def _check_weights(stage: Finished, folder: Path, names: Sequence[str]) -> None:
    """Weights are whole safetensors files, and all that an index names are there."""
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights and stage.artifact.kind != "tokenizer":
        raise PublishError(f"stage '{stage.name}' holds no safetensors weights; pickled ones are never published")
    for name in weights:
        _check_safetensors(folder / name)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(set(_json(index).get("weight_map", {}).values()) - set(weights))
        if missing:
            raise PublishError(f"stage '{stage.name}': the index names {missing[0]}, which is not there")


def _header(file: Path) -> bytes:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LARGEST_HEADER + 1
        if length > LARGEST_HEADER:
            raise PublishError(f"{file.name} is no safetensors file")
        return stream.read(length)


def _check_safetensors(file: Path) -> None:
    header = _header(file)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"{file.name} is no safetensors file") from error
    if 8 + len(header) + end != file.stat().st_size:
        raise PublishError(f"{file.name} is cut short: its header asks for {8 + len(header) + end:,} bytes, it has {file.stat().st_size:,}")


def _clean(file: Path, stage: Finished, bases: Mapping[str, Place]) -> None:
    """Take this machine's paths out of a configuration, and refuse one that asks for code to be run."""
    value = _json(file)
    if "auto_map" in value:
        raise PublishError(f"stage '{stage.name}': {file.name} asks for custom code (auto_map); such models are not published")
    cleaned = {key: one for key, one in value.items() if not (key in ("_name_or_path", "name_or_path") and _is_local(one))}
    base = value.get("base_model_name_or_path")
    if file.name == "adapter_config.json" and _is_local(base):
        place = _published_base(stage, str(base), bases)
        cleaned["base_model_name_or_path"] = place.repository
        if place.revision != MAIN or "revision" in cleaned:
            cleaned["revision"] = place.revision if place.revision != MAIN else None
    if cleaned != value:
        file.write_text(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def base_of(stage: Finished, bases: Mapping[str, Place]) -> Place | None:
    """Where the base of a stage's adapters lies: published from this run, or on the Hub before; None for a whole model."""
    for file in sorted([stage.folder.artifact / "adapter_config.json", *stage.folder.artifact.glob("*/adapter_config.json")]):
        if file.is_file():
            base = str((says := _json(file)).get("base_model_name_or_path"))
            return _published_base(stage, base, bases) if _is_local(base) else Place(base, says.get("revision") or MAIN)
    return None


def _published_base(stage: Finished, base: str, bases: Mapping[str, Place]) -> Place:
    """An adapter names its base by a path relative to its artifact, which means nothing elsewhere."""
    folder = (stage.folder.artifact / base).resolve()
    for parent in stage.ancestors():
        if parent.folder.artifact.resolve() == folder and parent.fingerprint in bases:
            place = bases[parent.fingerprint]
            if place.folder:
                raise PublishError(
                    f"stage '{stage.name}' is an adapter on '{parent.name}', and no adapter can name a base in a folder of a repository; "
                    "choose layout repositories or branches, or export the merged model"
                )
            return place
    raise PublishError(
        f"stage '{stage.name}' is an adapter on the local folder {base}; publish the stage that made it first, or together with it"
    )


def _is_local(value: Any) -> bool:
    """Whether a name can only be a folder of this machine; a repository is `name` or `owner/name`."""
    return isinstance(value, str) and (value.startswith((".", "~", "/")) or "\\" in value or value.count("/") > 1 or Path(value).exists())


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise PublishError(f"{file.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise PublishError(f"{file.name} is no JSON object")
    return value
