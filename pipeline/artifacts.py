"""What lies in a folder that a recipe names: its kind, its content's digest, and what it says of itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import suggestion
from stages.contract import Artifact
from stages.core.files import digest, digest_of
from stages.core.trust import own_code

MANIFEST = "manifest.json"


def inspect(folder: Path) -> Artifact | str:
    """What an artifact's folder says of itself, or a sentence on why it is none."""
    if not folder.is_dir():
        names = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        return f"there is no folder {folder}{suggestion(folder.name, names)}"
    if (folder / "artifact").is_dir():
        return f"{folder} is a stage's folder; its model is in {folder / 'artifact'}"
    try:
        if (folder / "artifact.json").is_file():
            return Artifact.model_validate_json((folder / "artifact.json").read_bytes())
        return _foreign(folder)
    except (OSError, ValueError, ValidationError) as error:
        return f"{folder} cannot be read: {' '.join(str(error).split())[:200]}"


def untrusted_code(stage: str, folder: Path, trusted: Sequence[Path]) -> str | None:
    """That an artifact's model is code of its own, which nothing named here trusts; None where it may be loaded."""
    if folder.resolve() in trusted or not own_code(folder):
        return None
    return (
        f"'{stage}' is code of its own (auto_map), which runs only where the recipe's `trust_remote_code` names where it comes from: "
        "name such a recipe, not the run's folder"
    )


def _foreign(folder: Path) -> Artifact | str:
    """The kind of a folder that another program wrote."""
    tokenizer = digest(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return f"{folder} holds an adapter without its model; merge it first, or train it in a stage of this recipe"
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_bytes())
        scores = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or [])
        context = config.get("max_position_embeddings")
        return Artifact(kind="reward-model" if scores else "causal-lm", tokenizer_digest=tokenizer, context_length=context)
    if tokenizer or (folder / "tokenizer_config.json").is_file():
        return Artifact(kind="tokenizer", tokenizer_digest=tokenizer)
    if any(entry.is_file() for entry in folder.iterdir()):
        return Artifact(kind="dataset") if not (folder / MANIFEST).exists() else f"{folder} holds no artifact"
    return f"{folder} is empty"


def lacks_template(folder: Path) -> bool:
    """Whether a model's folder has a tokenizer, and no chat template anywhere."""
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() or any(folder.glob("*chat_template*")):
        return False
    try:
        return not json.loads(settings.read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return False


def unfit(folder: Path) -> str | None:
    """Why a model's folder cannot be trained with the tokenizer that lies in it, as far as its files tell; None if nothing is known to be wrong."""
    try:
        rows = json.loads((folder / "config.json").read_bytes()).get("vocab_size")
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens", []))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # another kind of tokenizer; the stage that loads it looks again
    if rows is not None and max(ids, default=0) >= rows:
        return f"{folder}: its tokenizer has ids up to {max(ids)} and its model only {rows} embeddings: they do not belong together"
    return None


def end_is_padding(folder: Path) -> bool:
    """Whether a folder's tokenizer pads with the token that ends a text, so that the end could not be learned."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_bytes())
        pad, eos = (_content(settings.get(name)) for name in ("pad_token", "eos_token"))
    except (OSError, ValueError, AttributeError):
        return False
    return pad is not None and pad == eos


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def listing(folder: Path, *, links: bool = False) -> dict[str, dict[str, Any]]:
    """Files below a folder: relative name to size and SHA-256, sorted. Hidden files say nothing of an artifact, nor do links unless asked for."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and (links or not file.is_symlink()))
    names = {file.relative_to(folder).as_posix(): file for file in files if not file.name.startswith(".")}
    return {name: {"size": file.stat().st_size, "sha256": digest(file)} for name, file in names.items()}


def folder_digest(folder: Path) -> str:
    """Digest of a folder of the user's. Links count as what they point to: the Hub's cache, for one, holds nothing else."""
    return content_digest(listing(folder, links=True))


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """One digest of a listing: the same wherever the folder lies."""
    return digest_of({name: entry["sha256"] for name, entry in files.items()})
