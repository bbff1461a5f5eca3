"""PPO against best-of-n at equal KL, on finished runs of the demo: how far the policy's reward lies above the curve that n samples of the SFT model buy.

    python benchmarks/best_of_n.py runs/demo-seed-11 runs/demo-seed-12 ...

Sets of prompts: `practised` and `held out`, on the two sides of PPO's own split of its prompts; and the exam's two groups, phrasings that no training
question used, and facts that none asked about, of which neither policy nor judge has seen anything. Of each set rows are drawn at random, so that
a prompt counts as often as the world asks it, as it does to PPO, and once in what the intervals draw anew. One prompt in ten has an earlier question and answer before the
asked one, and hardly two of these are alike: they are told once more alone, `held out, after another`, each once.

The judge scores all. KL of best of n is its bound, log n - (n - 1) / n; reward and KL of the policy are of the same answers. Each run is judged by its own
models; nothing is written into it.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from data.config import Source
from data.formats import Prompt
from data.records import content_key, read_records, split
from stages.contract import Hardware, Input, Job
from stages.core.statistics import Floats, above_best_of, best_of
from stages.evaluate.config import Evaluate
from stages.evaluate.exam import read_exams
from stages.evaluate.family import examine, measure_distance, members
from stages.evaluate.marks import Marks
from stages.evaluate.run import mark_all

TRUTHS = ("correct", "good")
"""What the world's rule says of an answer, of chat and then of the policy."""
NUMBERS = (1, 2, 4, 8, 16)


def prompt_sets(folder: Path, held_out: float) -> dict[str, list[Prompt]]:
    """The prompts of a run by set, as often as they are asked. `held_out` is the share that its PPO held out."""
    rows = {name: _rows(folder / "world" / "artifact" / f"{name}.jsonl") for name in ("prompts", "exam")}
    practised, held = split(rows["prompts"], held_out)
    exam = {name: [row for row in rows["exam"] if row.extra["group"] == name] for name in ("held_phrasing", "held_fact")}
    after = list({content_key(row): row for row in held if len(row.messages) > 1}.values())
    sets = {"practised": practised, "held out": held, "held out, after another": after}
    return sets | {"exam, phrasings": exam["held_phrasing"], "exam, facts": exam["held_fact"]}


def _rows(path: Path) -> list[Prompt]:
    return read_records((Source(path=path.name),), [[path]], Prompt).records


def drawn(name: str, prompts: Sequence[Prompt], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows at random, equal ones as one row with their number as `count`."""
    rows: dict[str, dict[str, Any]] = {}
    for place in sorted(Random(name).sample(range(len(prompts)), min(limit, len(prompts)))):
        prompt = prompts[place]
        row = rows.setdefault(content_key(prompt), {"prompt": prompt.messages, "reference": prompt.reference, "count": 0})
        row["count"] += 1
    return list(rows.values())


def job_of(folder: Path, scratch: Path, *, best_of: int, answers: int, limit: int) -> tuple[Job, Evaluate]:
    """An evaluation of a finished run, in the folder `scratch`: chat and policy, the judge's rewards, `best_of` samples of chat and `answers` of the policy."""
    told = json.loads((folder / "policy" / "job.json").read_text())
    kinds = {"models.0": ("chat", "causal-lm"), "models.1": ("policy", "causal-lm"), "rewards.0.model": ("judge", "reward-model")}
    inputs = {
        field: Input(reference=stage, kind=kind, path=folder / stage / "artifact", fingerprint="0")
        for field, (stage, kind) in kinds.items()
    }
    files: dict[str, list[Path]] = {}
    sets = prompt_sets(folder, told["config"]["held_out"])
    for number, (name, prompts) in enumerate(sets.items()):
        files[f"tasks.{number}.prompts.0"] = [path := scratch / f"{number}.jsonl"]
        path.write_text("".join(json.dumps(row) + "\n" for row in drawn(name, prompts, limit)))
    config: dict[str, Any] = {
        "models": ["chat", "policy"],
        "tasks": [{"name": name, "prompts": [{"path": f"{number}.jsonl"}], "rule": "world"} for number, name in enumerate(sets)],
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


def counts(prompts: Sequence[Prompt]) -> Floats:
    """How often each was drawn: (N)."""
    return np.array([float(prompt.extra["count"]) for prompt in prompts])


def examined(folder: Path, *, best_of: int, answers: int, limit: int) -> Iterator[tuple[Marks, Marks]]:
    """Chat's and the policy's marks, by set of prompts."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        job, config = job_of(folder, Path(scratch), best_of=best_of, answers=answers, limit=limit)
        family, chat = members(job, config)
        exams, _ = read_exams(job, config)
        for member in family:
            examine(member, exams, [], config, job.hardware, best_of if member is chat else answers)
        measure_distance(family, chat, config, job.hardware)
        marks = mark_all(family, job, config, job.hardware)
    return zip(marks["chat"], marks["policy"], strict=True)


def row_of(chat: Marks, policy: Marks, seed: int) -> list[str]:
    """One set: its prompts, rewards, KL, how far the policy lies above the curve with the interval over prompts, the curve, and what is right."""
    assert policy.kl is not None
    weights = counts(policy.paper.exam.prompts)

    def mean(values: Floats) -> float:
        return float(np.average(values, weights=weights))

    above = above_best_of(policy.reward, policy.kl, chat.rewards_NK, seed=seed, weights_N=weights)
    curve = [mean(best_of(chat.rewards_NK, chat.rewards_NK, n)) for n in NUMBERS if n <= chat.rewards_NK.shape[1]]
    return [
        policy.paper.exam.task.name,
        f"{len(weights)}",
        f"{curve[0]:.3f}",
        f"{mean(policy.reward):.3f}",
        f"{mean(policy.kl):.2f}",
        "beyond the curve" if above is None else f"{above.mean:.3f} ({above.low:.3f} to {above.high:.3f})",
        ", ".join(f"{reward:.2f}" for reward in curve),
        *(f"{mean(chat.verdicts_NK(part).mean(axis=1)):.3f} to {mean(policy.sampled[part]):.3f}" for part in TRUTHS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of the demo")
    parser.add_argument("--best-of", type=int, default=16)
    parser.add_argument("--answers", type=int, default=4, help="of the policy to each prompt")
    parser.add_argument("--limit", type=int, default=480, help="rows drawn of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| run | prompts | different ones | chat's reward | policy's | its KL | above best of n at equal KL | best of 1, 2, 4, ... | {' | '.join(TRUTHS)} |"
    )
    print("| --- | --- |" + " ---: |" * 5 + " --- |" + " ---: |" * len(TRUTHS))
    for folder in arguments.runs:
        for chat, policy in examined(folder.absolute(), best_of=arguments.best_of, answers=arguments.answers, limit=arguments.limit):
            print("| " + " | ".join([folder.name, *row_of(chat, policy, seed=0)]) + " |", flush=True)


if __name__ == "__main__":
    main()
