"""Whatever is killed, whenever: the stage goes on and leaves the bits of the run that nobody killed. `benchmarks/kill.py` does it for as long as one likes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill_stages import JOBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def killed():
    """The same kills each time: every stage at least three times, all from one process that has loaded torch once."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "benchmarks.kill", "--rounds", "3", "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=1200, check=False)
    assert done.stdout.strip(), done.stderr[-3000:]
    return {line["stage"]: line for line in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.slow
@pytest.mark.parametrize("stage", JOBS)
def test_killed_at_random_and_resumed_equals_uninterrupted(killed, stage):
    line = killed[stage]
    assert line["kills"] >= 3
    assert line["equal"] == line["finished"] >= 1
