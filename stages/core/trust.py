"""Whose code may run. A model that brings Python of its own is refused, unless the recipe's `trust_remote_code` names its repository and commit.

Which inputs these are the orchestrator decides, and says in the job; what a stage makes of such a model is such a model. Torch-free.
"""

from pathlib import Path
from typing import Any

from stages.contract import Job

REFUSED = "its model is code of its own, which runs only where the recipe's `trust_remote_code` names its repository and commit: owner/name@COMMIT"

_trusted: set[Path] = set()
"""Folders of this process's job, resolved."""


def trust(job: Job) -> None:
    """From here on, in this process: code in the inputs that the job trusts may run, and so may what the stage leaves of it."""
    inputs = [each.path for each in job.inputs.values() if each.trusted]
    _trusted.clear()
    _trusted.update(folder.resolve() for folder in [*inputs, *([job.folder] if inputs else [])])


def strict(folder: Path) -> dict[str, Any]:
    """Options of every `from_pretrained` for a folder: local files only, and no code that is not trusted."""
    place = folder.resolve()
    return {"local_files_only": True, "trust_remote_code": any(each in (place, *place.parents) for each in _trusted)}


def wants_code(error: Exception) -> bool:
    """Whether transformers refused to load a model because it is code of its own."""
    return "trust_remote_code" in str(error)
