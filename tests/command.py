"""The command line, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path


def pipeline(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`pipeline` as it is typed, in `folder`, with this environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["pipeline", *words], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=1200)
