"""How an artifact appears: whole, by a rename. Torch-free."""

import shutil
from collections.abc import Callable
from pathlib import Path

from stages.contract import Artifact
from stages.core.files import sync


def publish(folder: Path, write: Callable[[Path], Artifact]) -> Artifact:
    """Write an artifact through `write(partial folder)`, add `artifact.json`, and rename it to `folder`, replacing an earlier one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    artifact = write(partial)
    (partial / "artifact.json").write_text(artifact.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    for path in partial.rglob("*"):
        sync(path)  # a manifest must not reach the disk before what it lists
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    sync(folder.parent)
    return artifact
