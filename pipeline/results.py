"""What a stage says back, and whether its artifact is of the kind that it should be."""

from pathlib import Path

from pydantic import ValidationError

from pipeline.store import StageFolder
from stages.contract import Artifact, Result
from stages.core.config import StageConfig


def result_of(folder: StageFolder) -> Result | str:
    """The result, or why there is none that counts."""
    try:
        result = Result.model_validate_json((folder.path / "result.json").read_bytes())
    except OSError:
        return "left no result.json"
    except ValidationError as error:
        return f"its result.json is wrong: {_short(error)}"
    return result if result.status == "done" else f"its result.json says '{result.status}'"


def artifact_complaint(folder: Path, config: StageConfig) -> str | None:
    """What is wrong with an artifact that a stage with these settings left."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return "left no artifact"
    says = folder / "artifact.json"
    if not says.exists():
        return None
    try:
        kind = Artifact.model_validate_json(says.read_bytes()).kind
    except ValidationError as error:
        return f"its artifact.json is wrong: {_short(error)}"
    makes = type(config).makes
    return None if kind == makes else f"its artifact is a {kind}, and a {config.model_dump()['kind']} stage makes a {makes}"


def _short(error: ValidationError) -> str:
    return " ".join(str(error).split())[:200]
