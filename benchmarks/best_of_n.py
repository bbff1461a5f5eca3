"""PPO against best-of-n at equal KL, on finished runs of the demo: how far the policy's reward lies above the curve that n samples of the SFT model buy.

    python benchmarks/best_of_n.py runs/demo-seed-11 runs/demo-seed-12 ...

On two sets of prompts: `asked`, which PPO practised on (facts that the judge was taught), and `exam` (facts and phrasings of which neither has seen anything).
The judge scores both. KL of best of n is its bound, log n - (n - 1) / n; the policy's is measured. Each run is judged by its own models; nothing is written into it.
"""

# ruff: noqa: E402 - memory is set up before torch is imported
import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from stages.__main__ import keep_memory

keep_memory()  # as a stage process does

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from stages.contract import Hardware, Input, Job, Result
from stages.evaluate.config import Evaluate
from stages.evaluate.run import run

TASKS = ("asked", "exam")
FILES = {"asked": "prompts.jsonl", "exam": "exam.jsonl"}


def examined(folder: Path, *, best_of: int, limit: int) -> Result:
    """The evaluation stage on a finished run: chat and policy, the judge's rewards, `best_of` samples of chat and four of the policy."""
    seed = int(json.loads((folder / "policy" / "job.json").read_text())["seed"])
    kinds = {"models.0": ("chat", "causal-lm"), "models.1": ("policy", "causal-lm"), "rewards.0.model": ("judge", "reward-model")}
    inputs = {
        field: Input(reference=stage, kind=kind, path=folder / stage / "artifact", fingerprint="0")
        for field, (stage, kind) in kinds.items()
    }
    config: dict[str, Any] = {
        "models": ["chat", "policy"],
        "tasks": [{"name": name, "prompts": [{"path": FILES[name]}], "rule": "world"} for name in TASKS],
        "rewards": [{"model": "judge"}],
        "best_of": best_of,
        "answers": 4,
        "limit": limit,
        "sampling": {"max_new_tokens": 32},
    }
    files = {f"tasks.{number}.prompts.0": [folder / "world" / "artifact" / FILES[name]] for number, name in enumerate(TASKS)}
    hardware = Hardware(gpus=0, precision="fp32")
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        job = Job(
            stage="exam", kind="evaluate", folder=Path(scratch), seed=seed, config=config, inputs=inputs, files=files, hardware=hardware
        )
        return run(job, Evaluate.model_validate(config), hardware)


def told(result: Result) -> list[list[str]]:
    """By task: reward of chat and policy, KL, how far the policy lies above the curve with its interval over prompts, and the curve."""
    changes = next(table for table in result.tables if table.title.startswith("Change from"))
    place = changes.columns.index("policy")
    rows = []
    for name in TASKS:
        above = next((row[place] for row in changes.rows if row[0] == f"{name}.reward above best of n at its kl"), "beyond the curve")
        curve = next(table for table in result.tables if table.title.endswith(f", {name}"))
        steps = " ".join(f"{row[0]}: {str(row[2]).split()[0]}" for row in curve.rows)
        values = [
            f"{result.metrics[f'{model}.{name}.{what}']:.3f}"
            for model, what in (("chat", "reward"), ("policy", "reward"), ("policy", "kl"))
        ]
        rows.append([name, *values, str(above), steps])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of the demo")
    parser.add_argument("--best-of", type=int, default=16)
    parser.add_argument("--limit", type=int, default=480, help="prompts of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | prompts | chat's reward | policy's reward | its KL | above best of n at equal KL | best of n |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for folder in arguments.runs:
        for row in told(examined(folder.absolute(), best_of=arguments.best_of, limit=arguments.limit)):
            print("| " + " | ".join([folder.name, *row]) + " |", flush=True)


if __name__ == "__main__":
    main()
