"""Models go into shards without a process, or a device, ever holding what it need not: made once, read as one file, cut weight by weight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.contract import Hardware
from stages.core import metrics
from stages.registry import config_class, run_function
from tests.stages.core.test_zero import WORDS, rows_of
from tests.stages.tiny import job_of, tokenizer_of
from tests.stages.together import task, together

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("starts")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.stages.core.two_starts", str(folder)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}
    done = subprocess.run([sys.executable, *launcher], env=settings, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_new_model_is_made_by_the_first_process_alone_and_is_the_same_bits(found, kind):
    for rank, told in enumerate(one[kind] for one in found):
        assert told == {
            "bare": rank > 0,
            "empty": rank > 0,
            "tied": kind == "tied",
            "whole": False,
            "trains": True,
            "buffers": True,
            "equal": True,
        }


def test_only_the_first_process_ever_holds_a_new_model_whole(found):
    first, second = (one["room"]["most"] for one in found)
    assert 0.9 < first < 1.3
    assert second < 0.7, "its shard, which is half of it, and one weight"


def test_a_policy_and_its_reference_that_are_read_from_a_file_are_no_processs_own_until_they_are_cut(found):
    for one in found:
        told = one["loaded"]
        assert told.pop("own") < 0.1
        assert told == {"touched": True, "equal": True, "apart": True, "frozen": True}


def test_a_new_model_learns_under_zero_three_what_it_learns_alone(tmp_path):
    tokenizer = tokenizer_of(WORDS)
    tokenizer.save_pretrained(tmp_path / "words")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of("pretrain")))
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "context": 64}
    config = {"tokenizer": "words", "model": shape, "data": [{"path": "x"}], "held_out": 0.1, "tokens": 1024, "batch_tokens": 256}
    runs = []
    for zero in (0, 3):
        folder = tmp_path / f"zero-{zero}"
        made = job_of(folder, "pretrain", config, inputs={"tokenizer": ("tokenizer", tmp_path / "words")}, files={"data.0": [data]})
        runs.append(made.model_copy(update={"hardware": Hardware(gpus=0, threads=1, zero=zero, micro_batch=1)}))
    alone, shared = runs
    run_function("pretrain")(alone, config_class("pretrain").model_validate(alone.config), alone.hardware)
    together([task(shared)], tmp_path)
    losses = [[line["loss"] for line in metrics.read(made.folder / "metrics.jsonl") if "loss" in line] for made in runs]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
