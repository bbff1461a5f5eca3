"""Real stages on a GPU: the small chain of benchmarks/gpu.py, alone and under ZeRO, four-bit bases, and vLLM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import measured, recipe
from tests.recipes.documents import ROOT


def run(folder: Path, *overrides: str) -> Path:
    (folder / "gpu.yaml").write_text(json.dumps(recipe("small")))
    argv = [sys.executable, "-m", "pipeline", "run", "gpu.yaml", "hardware.gpus=1", *overrides]
    done = subprocess.run(argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "gpu-small"


def lines(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]


def test_the_chain_runs_and_says_how_fast_it_was(tmp_path: Path):
    done = run(tmp_path)
    for stage in ("base", "chat", "judge", "policy"):
        found = measured(lines(done, stage), 8)
        assert found["tokens per second"] > 0
        assert 0 < found["peak GiB"] < 80
    assert 0 < found["rollout share"] < 1


@pytest.mark.needs("deepspeed")
@pytest.mark.parametrize("how", ["hardware.zero=2", "hardware.zero=3", "hardware.offload={optimizer: cpu, parameters: cpu}"])
def test_zero_on_a_gpu_has_the_losses_of_one_without(tmp_path: Path, how: str):
    zero = () if "zero" in how else ("hardware.zero=3",)
    plain = run(tmp_path, "hardware.precision=fp32", "name=gpu-small")
    alone = [line["loss"] for line in lines(plain, "base") if "loss" in line]
    (tmp_path / "other").mkdir()
    shared = [line["loss"] for line in lines(run(tmp_path / "other", "hardware.precision=fp32", how, *zero), "base") if "loss" in line]
    assert shared == pytest.approx(alone, rel=1e-4)


@pytest.mark.needs("bitsandbytes")
def test_a_four_bit_base_learns(tmp_path: Path):
    done = run(tmp_path, "stages.chat.adapter={kind: qlora, rank: 8}")
    losses = [line["loss"] for line in lines(done, "chat") if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.needs("vllm")
def test_vllm_answers_with_the_weights_of_the_step(tmp_path: Path):
    """Its log-probabilities are the trainer's up to kernels, at the last rollout as at the first: weights were handed over."""
    done = run(tmp_path, "stages.policy.engine=vllm")
    differences = [line["sampler_difference"] for line in lines(done, "policy") if "sampler_difference" in line]
    assert max(differences) < 0.5
