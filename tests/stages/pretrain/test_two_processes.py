"""Two processes over gloo give what one gives: the same loss at every step, the same weights, one artifact."""

import json
import os
import subprocess
import sys

import pytest
import torch

WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills"]


def texts(count):
    import random

    source = random.Random(3)
    return [{"text": " ".join(source.choices(WORDS, k=source.randint(4, 30)))} for _ in range(count)]


def finish(job, processes, environment=()):
    (job.folder / "job.json").write_text(job.model_dump_json())
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    argv = [sys.executable, *(launcher if processes > 1 else ()), "-m", "tests.stages.sgd", str(job.folder / "job.json")]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **dict(environment)}
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_two_processes_give_the_loss_of_one(make_job, base_folder, kind):
    from safetensors.torch import load_file

    def job(name):
        common = {"data": [{"path": "x"}], "batch_tokens": 256, "optimizer": {"learning_rate": 0.1}, "held_out": 0.1}
        if kind == "pretrain":
            config = {"model": {"hidden_size": 32, "layers": 2, "heads": 4, "context": 32}, "tokenizer": "words", "tokens": 1536} | common
            return make_job(kind, config, name=name, inputs={"tokenizer": ("tokenizer", base_folder)}, rows={"data.0": texts(100)})
        chats = [
            {"messages": [{"role": "user", "content": row["text"][:20]}, {"role": "assistant", "content": row["text"]}]}
            for row in texts(60)
        ]
        return make_job(
            kind, {"model": "b", "epochs": 1} | common, name=name, inputs={"model": ("causal-lm", base_folder)}, rows={"data.0": chats}
        )

    one, two = job("one"), job("two")
    alone, together = finish(one, 1), finish(two, 2)
    assert len(alone) == len(together) >= 4
    for a, b in zip(alone, together, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-4)
        assert a["tokens"] == b["tokens"]
    weights = [load_file(job.artifact / "model.safetensors") for job in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-6)
