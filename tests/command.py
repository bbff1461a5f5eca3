"""The command line, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

CANARY = "hf_canarycanarycanary0123456789"
"""A token that the demo's run finds in its environment and must write nowhere."""


def pipeline(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`pipeline` as it is typed, in `folder`, with this environment's programs first on the path and `variables` in the environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["pipeline", *words], cwd=folder, env={**os.environ, "PATH": path, **variables}, capture_output=True, text=True, timeout=1200
    )
