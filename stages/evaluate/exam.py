"""The exam: what every model is asked, and what its answers are worth by rule and by reward. The same prompts and seeds for the whole family."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from data.chat import end_ids, fit_prompts
from data.errors import DataError
from data.formats import Prompt
from data.records import read_records
from stages.contract import Job
from stages.core.answers import Answers
from stages.core.config import Sampling
from stages.core.generation import Completion, Engine
from stages.core.rewards import RuleScorer
from stages.core.rules import load_rule, plain_name
from stages.core.seeds import seed_for
from stages.core.statistics import Floats
from stages.evaluate.config import Evaluate, Task

OTHERS = ("reward", "win_rate", "kl", "length", "eos_rate", "perplexity", "bits_per_byte", "perplexity_floor")
"""What is told of a model's answers and texts whatever the rule: a part of its verdict of the same name is told as `rule_NAME`."""


@dataclass(frozen=True)
class Exam:
    """One task's prompts."""

    task: Task
    prompts: list[Prompt]
    seed: int

    @property
    def groups(self) -> list[str | None]:
        """By which the prompts are told apart in the report; from the rows' `group`."""
        return [None if prompt.extra.get("group") is None else str(prompt.extra["group"]) for prompt in self.prompts]

    def seeds(self, sample: int) -> list[int]:
        """One for each prompt, the same for every model, so that models differ by their probabilities and not by luck."""
        return [seed_for(self.seed, "answer", self.task.name, number, sample) for number in range(len(self.prompts))]


def read_exams(job: Job, config: Evaluate) -> tuple[list[Exam], list[str]]:
    """Every task's prompts, at most `limit` of each, and notes on how they were read. Raises DataError."""
    exams, notes = [], []
    for number, task in enumerate(config.tasks):
        files = [job.files.get(f"tasks.{number}.prompts.{place}", []) for place in range(len(task.prompts))]
        found = read_records(task.prompts, files, Prompt)
        # A random subset and not the first rows, which may all be of one group; the same for every model.
        chosen = sorted(
            Random(seed_for(job.seed, "exam", task.name)).sample(range(len(found.records)), min(config.limit, len(found.records)))
        )
        exams.append(Exam(task, [found.records[place] for place in chosen], job.seed))
        notes += found.notes
        if len(chosen) < len(found.records):
            notes.append(f"{task.name}: {len(chosen):,} of {len(found.records):,} prompts, drawn at random (`limit`)")
    return exams, notes


@dataclass(frozen=True)
class Paper:
    """What one model answered in one exam."""

    exam: Exam
    messages: list[list[dict[str, Any]]]
    """The conversations as this model saw them: without their oldest exchanges where its context is too short."""
    prompt_ids: list[list[int]]
    greedy: list[Completion]
    sampled: list[list[Completion]]
    """By sample, then by prompt; the first `answers` of the recipe are graded, all of them are for best-of-n."""
    texts: dict[str, list[list[str]]]
    """`greedy` and `sampled`: what the answers say without their end tokens, by sample and prompt."""

    def answers(self, completions: Sequence[Completion], texts: Sequence[str]) -> Answers:
        references = [prompt.reference for prompt in self.exam.prompts]
        return Answers(self.messages, self.prompt_ids, completions, texts, references)

    def greedy_answers(self) -> Answers:
        return self.answers(self.greedy, self.texts["greedy"][0])

    def sampled_answers(self, sample: int = 0) -> Answers:
        return self.answers(self.sampled[sample], self.texts["sampled"][sample])


def sit(exam: Exam, engine: Engine, tokenizer: Any, sampling: Sampling, samples: int, context: int) -> Paper:
    """Answer every prompt once greedily and `samples` times by sampling. Raises DataError for a prompt that does not fit into the context."""
    messages, prompt_ids = fitted(exam, tokenizer, context - sampling.max_new_tokens)
    ends = end_ids(tokenizer)

    def generate(seeds: list[int], greedy: bool) -> list[Completion]:
        return engine.generate(
            prompt_ids * (len(seeds) // len(prompt_ids)),
            seeds=seeds,
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            end_ids=ends,
            greedy=greedy,
        )

    count = len(exam.prompts)
    greedy = generate(exam.seeds(0), True)
    drawn = generate([seed for sample in range(samples) for seed in exam.seeds(sample)], False)
    sampled = [drawn[count * sample : count * (sample + 1)] for sample in range(samples)]
    texts = {"greedy": [_texts(tokenizer, greedy)], "sampled": [_texts(tokenizer, answers) for answers in sampled]}
    return Paper(exam, messages, prompt_ids, greedy, sampled, texts)


def fitted(exam: Exam, tokenizer: Any, room: int) -> tuple[list[list[dict[str, Any]]], list[list[int]]]:
    """The prompts and their ids, oldest exchanges dropped where they are too long. Raises DataError for one that does not fit without them."""
    found = fit_prompts(tokenizer, [prompt.messages for prompt in exam.prompts], room)
    kept = [pair for pair in found if pair is not None]
    if len(kept) < len(found):
        first = next(number for number, pair in enumerate(found, 1) if pair is None)
        raise DataError(
            f"{exam.task.name}: {len(found) - len(kept)} prompts, the first of them number {first}, do not fit into the {room} tokens that the "
            "model's context leaves beside an answer; lower sampling.max_new_tokens or leave them out"
        )
    return [messages for messages, _ in kept], [ids for _, ids in kept]


def _texts(tokenizer: Any, completions: Sequence[Completion]) -> list[str]:
    ids = [completion.words for completion in completions]
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True))


def graded(rule: str, answers: Answers) -> tuple[str, dict[str, Floats]]:
    """Every part of the rule's verdict by name, (N) float64 each, and the name of the part that counts as the truth."""
    parts = RuleScorer(load_rule(rule), f"rule '{rule}'").score(answers)
    verdict = parts.pop("")
    truth = next((name for name in ("reward", "good") if name in parts), plain_name(rule))
    verdicts = parts | {truth: np.asarray(verdict, dtype=np.float64)}
    return _own_name(truth), {_own_name(name): values for name, values in verdicts.items()}


def _own_name(part: str) -> str:
    """What a part of a rule's verdict is called beside the quantities that every exam has."""
    return f"rule_{part}" if part in OTHERS else part


def lengths(completions: Sequence[Completion]) -> Floats:
    """Tokens of each answer, the one that ended it included."""
    return np.array([len(completion.ids) for completion in completions], dtype=np.float64)


def ended(completions: Sequence[Completion]) -> Floats:
    """1 for each answer that ended by itself."""
    return np.array([completion.finished for completion in completions], dtype=np.float64)
