"""How an artifact appears: whole, by a rename. Torch-free."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from stages.contract import Artifact


def publish(folder: Path, write: Callable[[Path], Artifact]) -> Artifact:
    """Write an artifact through `write(partial folder)`, add `artifact.json`, and rename it to `folder`, replacing an earlier one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    artifact = write(partial)
    (partial / "artifact.json").write_text(artifact.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return artifact
