"""Answers of the policy: which prompts a step answers, the answers, and what they are worth.

Everything is a function of (seed, step, number of the sample in the rollout): no generator's state has to be saved, and neither the cutting into
micro-batches nor the number of processes changes an answer.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data.formats import Prompt
from data.order import epoch_order
from stages.core.answers import Answers, Scores
from stages.core.config import Sampling
from stages.core.generation import Completion, Engine
from stages.core.rewards import Rewards
from stages.core.seeds import seed_for
from stages.ppo.ranks import Ranks


@dataclass(frozen=True)
class Question:
    """A prompt, ready to be answered."""

    ids: list[int]
    record: Prompt


@dataclass(frozen=True)
class Rollout:
    """This process's share of a step's answers."""

    samples: list[int]
    """Numbers of the samples among the whole rollout's, ascending."""
    prompt_ids: list[list[int]]
    completions: list[Completion]
    texts: list[str]
    scores: Scores


@dataclass(frozen=True)
class Rollouts:
    """Draws rollouts: an engine, the rewards, the prompts and how they are sampled."""

    engine: Engine
    rewards: Rewards
    tokenizer: Any
    end_ids: frozenset[int]
    sampling: Sampling
    seed: int
    ranks: Ranks
    whole: Callable[[], AbstractContextManager[None]] = nullcontext
    """In which the engine has all of the policy's weights."""

    def of_step(self, questions: Sequence[Question], batch: int, step: int) -> Rollout:
        """The answers of a training step: `batch` prompts in the order of the seed, each epoch its own permutation."""
        samples = list(range(self.ranks.rank, batch, self.ranks.size))
        chosen = [questions[question_of(self.seed, len(questions), step * batch + sample)] for sample in samples]
        return self.answer(chosen, samples, [seed_for(self.seed, "answer", step, sample) for sample in samples])

    def held_out(self, questions: Sequence[Question]) -> Rollout:
        """Answers to the same prompts with the same random numbers at every evaluation: differences are the policy's."""
        samples = list(range(self.ranks.rank, len(questions), self.ranks.size))
        return self.answer([questions[i] for i in samples], samples, [seed_for(self.seed, "held-out", sample) for sample in samples])

    def answer(self, questions: Sequence[Question], samples: list[int], seeds: Sequence[int]) -> Rollout:
        prompt_ids = [question.ids for question in questions]
        with self.whole():
            self.engine.sync()
            completions = self.engine.generate(
                prompt_ids,
                seeds=seeds,
                temperature=self.sampling.temperature,
                max_new_tokens=self.sampling.max_new_tokens,
                end_ids=self.end_ids,
            )
        texts = self.tokenizer.batch_decode([completion.words for completion in completions], skip_special_tokens=True)
        records = [question.record for question in questions]
        answers = Answers([r.messages for r in records], prompt_ids, completions, texts, [r.reference for r in records])
        return Rollout(samples, prompt_ids, completions, texts, self.rewards.score(answers))


def question_of(seed: int, count: int, position: int) -> int:
    """Which of `count` prompts stands at a position of the endless order: one permutation after another, each of its own seed."""
    epoch, place = divmod(position, count)
    return _order(seed, count, epoch)[place]


@lru_cache(maxsize=4)
def _order(seed: int, count: int, epoch: int) -> list[int]:
    order: list[int] = epoch_order(count, seed_for(seed, "prompts"), epoch).tolist()
    return order
