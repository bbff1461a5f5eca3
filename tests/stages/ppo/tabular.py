"""The real loop on the enumerable toy: a table as policy, a table as critic, an engine that draws from the table. Nothing of the algorithm is faked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.formats import Prompt
from stages.contract import Checkpoints
from stages.core.answers import Answers
from stages.core.checkpoints import Saver
from stages.core.config import RewardPart, Sampling
from stages.core.generation import Completion, draw, uniforms
from stages.core.logprobs import Batch, chosen_logprobs
from stages.core.rewards import Rewards
from stages.ppo.algorithm import KLController, RunningMoments
from stages.ppo.config import PPO
from stages.ppo.keeping import Keeping
from stages.ppo.loop import Training
from stages.ppo.players import Player, Players
from stages.ppo.ranks import Ranks
from stages.ppo.rollout import Question, Rollouts
from stages.ppo.watch import Watch
from tests.stages.ppo.toy import EOS, LONGEST, SEQUENCES, STATE_OF, STATES, Toy

PROMPT = 9
"""The one prompt is this token."""
INDEX = {tuple(sequence): index for index, sequence in enumerate(SEQUENCES)}


def states_of(batch: Batch) -> Tensor:
    """State before each target: the words of its row up to its position, as `toy.STATES` numbers them."""
    ids_BL = torch.nn.functional.pad(batch.ids_BL, (0, LONGEST))
    first_N, second_N = ids_BL[batch.row_N, 1], ids_BL[batch.row_N, 2]
    return torch.where(batch.column_N == 0, 0, torch.where(batch.column_N == 1, first_N, 4 + 3 * (first_N - 1) + (second_N - 1)))


class TablePolicy(nn.Module):
    def __init__(self, logits_XA: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.logits_XA, self.temperature = nn.Parameter(logits_XA.float().clone()), temperature

    def forward(self, batch: Batch, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        return chosen_logprobs(self.logits_XA[states_of(batch)], batch.target_N, self.temperature, with_entropy)


class TableCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values_X = nn.Parameter(torch.zeros(len(STATES)))

    def forward(self, batch: Batch) -> Tensor:
        return self.values_X[states_of(batch)]


class TableEngine:
    def __init__(self, policy: TablePolicy) -> None:
        self.policy = policy

    def sync(self) -> None:
        pass

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[int], temperature: float, **_: Any) -> list[Completion]:
        numbers = torch.from_numpy(uniforms(seeds, LONGEST))
        answers: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        for t in range(LONGEST):
            alive = [i for i, (ids, _) in enumerate(answers) if EOS not in ids]
            logits = self.policy.logits_XA[[STATE_OF[tuple(answers[i][0])] for i in alive]]
            tokens = draw(logits, numbers[alive, t], temperature)
            logps = chosen_logprobs(logits, tokens, temperature)[0]
            for i, token, logp in zip(alive, tokens.tolist(), logps.tolist(), strict=True):
                answers[i][0].append(token)
                answers[i][1].append(logp)
        return [Completion(ids, ids[-1] == EOS, logp) for ids, logp in answers]


class TableReward:
    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        rows = [INDEX[tuple(completion.ids)] for completion in answers.completions]
        return {"": self.toy.rewards_S[rows].double().numpy()}


class NoWords:
    """A tokenizer that has nothing to say."""

    def batch_decode(self, ids: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return ["" for _ in ids]


def settings(**changes: Any) -> PPO:
    base: dict[str, Any] = {
        "model": "m",
        "rewards": [{"rule": "exact"}],
        "prompts": [{"path": "p"}],
        "steps": 200,
        "batch": 256,
        "missing_eos_penalty": 0.0,
        "critic_warmup": 2,
        "value_clip": None,
        "sampling": {"max_new_tokens": LONGEST},
        "evaluate_every": 1000,
        "evaluation_prompts": 1,
        "policy_optimizer": {"learning_rate": 0.05, "final": 0.0, "beta2": 0.99},
        "critic_optimizer": {"learning_rate": 0.1, "final": 0.0},
    }
    return PPO.model_validate(base | changes)


def training(toy: Toy, config: PPO, folder: Path, *, seed: int = 0, policy: nn.Module | None = None, **parts: Any) -> Training:
    """A run of the real loop on the toy. `parts` replaces policy, reference, critic or engine by others than tables."""
    ranks = Ranks()
    temperature = config.sampling.temperature
    policy = policy or TablePolicy(toy.reference_XA, temperature)
    reference = parts.get("reference") or TablePolicy(toy.reference_XA, temperature).requires_grad_(False)
    updates = config.epochs * config.minibatches
    players = Players(
        Player("policy", policy, config.policy_optimizer, (config.steps - config.critic_warmup) * updates, ranks),
        Player("critic", parts.get("critic") or TableCritic(), config.critic_optimizer, config.steps * updates, ranks),
        reference,
    )
    rewards = Rewards([("toy", RewardPart(rule="exact"), TableReward(toy))])
    engine = parts.get("engine") or TableEngine(policy)  # type: ignore[arg-type]
    sampling = Sampling(temperature=temperature, max_new_tokens=LONGEST)
    rollouts = Rollouts(engine, rewards, NoWords(), frozenset({EOS}), sampling, seed, ranks)
    question = Question([PROMPT], Prompt([{"role": "user", "content": "?"}]))
    watch = Watch(folder, config, rollouts, [question], ranks)
    kl = KLController(config.kl.coefficient, config.kl.target, config.kl.horizon)
    keeping = Keeping(config.ema, config.keep == "best", config.kl_budget)
    running = RunningMoments() if config.running_normalisation else None
    saver = Saver(folder / "checkpoints", Checkpoints(every_steps=10_000))
    return Training(config, seed, players, rollouts, [question], kl, keeping, watch, saver, ranks, running=running)
