"""PPO against best-of-n at equal KL, on finished runs of the demo: how far the policy's reward lies above the curve that n samples of the SFT model buy.

    python benchmarks/best_of_n.py runs/demo-seed-11 runs/demo-seed-12 ...

Four sets of prompts, each prompt once: `practised` and `held out`, on the two sides of PPO's own split of its prompts; and the exam's two groups, phrasings that
no training question used, and facts that none asked about, of which neither policy nor judge has seen anything. The judge scores all. KL of best of n
is its bound, log n - (n - 1) / n; reward and KL of the policy are of the same answers. Each run is judged by its own models; nothing is written into it.
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

from data.config import Source
from data.formats import Prompt
from data.records import content_key, read_records, split
from stages.contract import Hardware, Input, Job, Result
from stages.evaluate.config import Evaluate
from stages.evaluate.run import run

TRUTHS = ("correct", "good")
"""What the world's rule says of an answer, of chat and then of the policy."""


def prompt_sets(folder: Path, held_out: float) -> dict[str, list[Prompt]]:
    """The prompts of a run by set, each prompt once. `held_out` is the share that its PPO held out."""
    rows = {name: _rows(folder / "world" / "artifact" / f"{name}.jsonl") for name in ("prompts", "exam")}
    practised, held = split(rows["prompts"], held_out)
    exam = {name: [row for row in rows["exam"] if row.extra["group"] == name] for name in ("held_phrasing", "held_fact")}
    return {"practised": practised, "held out": held, "phrasings": exam["held_phrasing"], "facts": exam["held_fact"]}


def _rows(path: Path) -> list[Prompt]:
    found = read_records((Source(path=path.name),), [[path]], Prompt).records
    return list({content_key(row): row for row in found}.values())


def job_of(folder: Path, scratch: Path, *, best_of: int, answers: int, limit: int) -> tuple[Job, Evaluate]:
    """An evaluation of a finished run, in the folder `scratch`: chat and policy, the judge's rewards, `best_of` samples of chat and `answers` of the policy."""
    told = json.loads((folder / "policy" / "job.json").read_text())
    kinds = {"models.0": ("chat", "causal-lm"), "models.1": ("policy", "causal-lm"), "rewards.0.model": ("judge", "reward-model")}
    inputs = {
        field: Input(reference=stage, kind=kind, path=folder / stage / "artifact", fingerprint="0")
        for field, (stage, kind) in kinds.items()
    }
    files: dict[str, list[Path]] = {}
    for number, (name, prompts) in enumerate(prompt_sets(folder, told["config"]["held_out"]).items()):
        files[f"tasks.{number}.prompts.0"] = [path := scratch / f"{name}.jsonl"]
        path.write_text("".join(json.dumps({"prompt": row.messages, "reference": row.reference}) + "\n" for row in prompts))
    config: dict[str, Any] = {
        "models": ["chat", "policy"],
        "tasks": [{"name": path.stem, "prompts": [{"path": path.name}], "rule": "world"} for (path,) in files.values()],
        "rewards": [{"model": "judge"}],
        "best_of": best_of,
        "answers": answers,
        "limit": limit,
        "sampling": {"max_new_tokens": 32},
    }
    hardware = Hardware(gpus=0, precision="fp32")
    job = Job(
        stage="exam", kind="evaluate", folder=scratch, seed=told["seed"], config=config, inputs=inputs, files=files, hardware=hardware
    )
    return job, Evaluate.model_validate(config)


def examined(folder: Path, *, best_of: int, answers: int, limit: int) -> Result:
    """The evaluation stage on a finished run."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        job, config = job_of(folder, Path(scratch), best_of=best_of, answers=answers, limit=limit)
        return run(job, config, job.hardware)


def rows_of(result: Result) -> list[list[str]]:
    """By set: reward of chat and policy, its KL, how far it lies above the curve with the interval over prompts, the curve, and what is right."""
    changes = next(table for table in result.tables if table.title.startswith("Change from"))
    place = changes.columns.index("policy")
    rows = []
    for table in (table for table in result.tables if table.title.startswith("Best of n")):
        name = table.title.rpartition(", ")[2]
        above = next((row[place] for row in changes.rows if row[0] == f"{name}.reward above best of n at its kl"), "beyond the curve")
        curve = ", ".join(f"{float(str(row[2]).split()[0]):.2f}" for row in table.rows)
        told = [
            f"{result.metrics[f'{model}.{name}.{what}']:.3f}"
            for model, what in (("chat", "reward"), ("policy", "reward"), ("policy", "kl"))
        ]
        truths = [" to ".join(f"{result.metrics[f'{model}.{name}.{part}']:.3f}" for model in ("chat", "policy")) for part in TRUTHS]
        rows.append([name, *told, str(above), curve, *truths])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of the demo")
    parser.add_argument("--best-of", type=int, default=16)
    parser.add_argument("--answers", type=int, default=4, help="of the policy to each prompt")
    parser.add_argument("--limit", type=int, default=240, help="prompts of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| run | prompts | chat's reward | policy's | its KL | above best of n at equal KL | best of 1, 2, 4, ... | {' | '.join(TRUTHS)} |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |" + " ---: |" * len(TRUTHS))
    for folder in arguments.runs:
        found = examined(folder.absolute(), best_of=arguments.best_of, answers=arguments.answers, limit=arguments.limit)
        for row in rows_of(found):
            print("| " + " | ".join([folder.name, *row]) + " |", flush=True)


if __name__ == "__main__":
    main()
