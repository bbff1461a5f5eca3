"""How much of what best-of-n gains is known to the judge alone: the same choice among n samples of the SFT model by what can be said of an answer in general.

    python -m benchmarks.judge_noise runs/demo-seed-11 ...

Best-of-n asks the judge about every answer to every prompt, and so gains by each of its whims about one prompt. A policy that has not met the prompt
can know only what holds of all: which words an answer has and whether it is right, polite, short and whole. A ridge regression of the judge's reward on just these, fitted on the
practised prompts (each half of them judged by the fit to the other), chooses in the judge's place, and the judge's reward of its choice is told. The two
differ by what no policy can have learned from other prompts. Prompt sets as in `best_of_n.py`.
"""

# ruff: noqa: E402 - memory is set up before torch is imported
import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from stages.__main__ import keep_memory

keep_memory()  # as a stage process does

import argparse
import contextlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.best_of_n import counts, job_of
from stages.core.generation import Transformers
from stages.core.models import context_of, load_causal_lm, load_tokenizer
from stages.core.rewards import build_rewards
from stages.core.statistics import Floats, best_of, best_of_kl
from stages.evaluate.exam import read_exams, sit
from stages.evaluate.marks import Marks, mark

RIDGE = 1.0


@dataclass(frozen=True)
class Answered:
    """N prompts with K samples of the SFT model each."""

    texts_NK: list[list[str]]
    marks: Marks

    def features_NKF(self, words: Mapping[str, int]) -> Floats:
        """Verdicts of the rule, number of words, and which of `words` an answer has; each less its mean over a prompt's answers."""
        rows, samples = len(self.texts_NK), len(self.texts_NK[0])
        found = np.zeros((rows, samples, len(words)))
        for row, texts in enumerate(self.texts_NK):
            for sample, text in enumerate(texts):
                found[row, sample, [words[word] for word in text.split() if word in words]] = 1.0
        lengths = np.array([[float(len(text.split())) for text in texts] for texts in self.texts_NK])
        verdicts = [self.marks.verdicts_NK(part) for part in self.marks.verdicts[0]]
        whole = np.concatenate([np.stack([*verdicts, lengths], axis=2), found], axis=2)
        return np.asarray(whole - whole.mean(axis=1, keepdims=True))


def fitted(features_NKF: Floats, rewards_NK: Floats) -> Floats:
    """Weights of the ridge regression of rewards, less each prompt's mean, on the features: (F)."""
    x = features_NKF.reshape(-1, features_NKF.shape[2])
    y = (rewards_NK - rewards_NK.mean(axis=1, keepdims=True)).reshape(-1)
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y))


def scores(sets: Mapping[str, Answered]) -> dict[str, Floats]:
    """What the general chooser thinks of every sample, by set. Nothing is scored by a fit to its own prompt."""
    practised = sets["practised"]
    words = {
        word: number for number, word in enumerate(sorted({w for texts in practised.texts_NK for text in texts for w in text.split()}))
    }
    own, rewards = practised.features_NKF(words), practised.marks.rewards_NK
    halves = np.arange(len(rewards)) % 2
    crossed = np.empty(rewards.shape)
    for half in (0, 1):
        crossed[halves == half] = own[halves == half] @ fitted(own[halves != half], rewards[halves != half])
    weights = fitted(own, rewards)
    return {name: crossed if name == "practised" else other.features_NKF(words) @ weights for name, other in sets.items()}


def answered(folder: Path, samples: int, limit: int) -> dict[str, Answered]:
    """The SFT model's samples by set of prompts, marked by the run's judge."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        job, config = job_of(folder, Path(scratch), best_of=samples, answers=1, limit=limit)
        exams, _ = read_exams(job, config)
        model, tokenizer = (load(job.inputs["models.0"].path) for load in (lambda path: load_causal_lm(path, job.hardware), load_tokenizer))
        rewards = build_rewards(config.rewards, job, tokenizer, job.hardware)
        found = {}
        for exam in exams:
            paper = sit(exam, Transformers(model, None), tokenizer, config.sampling, samples, context_of(model))
            found[exam.task.name] = Answered(
                [list(texts) for texts in zip(*paper.texts["sampled"], strict=True)], mark(paper, None, rewards)
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of the demo")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--limit", type=int, default=480, help="rows drawn of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = [2**power for power in range(1, 5)]
    print("| run | prompts | " + " | ".join(f"n = {n}, {best_of_kl(n):.2f} nats" for n in numbers) + " |")
    print("| --- | --- |" + " ---: |" * len(numbers))
    for folder in arguments.runs:
        sets = answered(folder.absolute(), arguments.samples, arguments.limit)
        for name, general_NK in scores(sets).items():
            rewards_NK, weights = sets[name].marks.rewards_NK, counts(sets[name].marks.paper.exam.prompts)
            cells = [[np.average(best_of(by, rewards_NK, n), weights=weights) for by in (rewards_NK, general_NK)] for n in numbers]
            told = (f"{judge:.3f}, {general:.3f} ({general - judge:+.3f})" for judge, general in cells)
            print(f"| {folder.name} | {name} | " + " | ".join(told) + " |", flush=True)


if __name__ == "__main__":
    main()
