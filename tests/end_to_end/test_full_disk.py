"""A disk that fills up: a small tmpfs with the whole run on it, whose last room goes at one moment or another. Nothing is lost, and it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.contract import FAILED
from tests.end_to_end.full_disk import MOMENTS, STAGES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[str, str], dict]:
    """What `full_disk.py` saw, by stage and moment, in a mount namespace of its own."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    argv = ["unshare", "-rm", sys.executable, str(Path(__file__).with_name("full_disk.py")), str(tmp_path_factory.mktemp("place"))]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line["stage"], line["moment"]): line for line in lines}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_in_a_sentence_and_goes_on_to_the_same_bits(found, stage, moment):
    line = found[stage, moment]
    assert line["code"] == FAILED
    assert line["free"] == 0, "the disk was not full"
    assert line["said"].startswith(f"{stage}: the "), line["said"]
    assert len(line["whole"]) == line["found"], "a checkpoint that has its name is whole"
    assert line["again"] == 0
    assert line["equal"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_too_small_is_told_before_the_first_step(found, stage):
    line = found[stage, "too small"]
    assert line["code"] == FAILED
    assert "make room, or keep fewer" in line["said"]
    assert not line["begun"]


@pytest.mark.parametrize("moment", ["the recipe", "the orders", "how it ended", "the history", "the manifest", "the link"])
def test_a_run_ends_in_a_sentence_and_the_same_command_goes_on(found, moment):
    line = found["pipeline", moment]
    assert line["code"] == FAILED
    assert "Traceback" not in line["said"]
    assert "No space left on device" in line["said"].splitlines()[-1]
    assert line["said"].endswith("to go on: pipeline run chain.yaml\n")
    assert (line["again"], line["doctor"]) == (0, 0)
