"""What a rollout becomes before anything learns from it: log-probabilities, values, rewards, advantages, returns.

Legend: B answers of this process, T tokens of the longest, `mask_BT` True on real tokens; all tensors are float32 on the CPU, 0 where masked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.logprobs import Sweep
from stages.ppo.algorithm import (
    Estimator,
    RunningMoments,
    finished_scores,
    gae,
    importance_weights,
    kl_estimate,
    overlong_penalty,
    token_rewards,
    whiten,
)
from stages.ppo.config import PPO
from stages.ppo.players import Players
from stages.ppo.ranks import Ranks
from stages.ppo.rollout import Rollout


@dataclass(frozen=True)
class Experience:
    samples: list[int]
    """Number of each answer among the whole rollout's, over all processes."""
    prompts: list[list[int]]
    completions: list[list[int]]
    mask_BT: Tensor
    logp_BT: Tensor
    """Of the policy that drew the answers, by the trainer's own forward pass."""
    reference_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor
    rewards_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    """What the critic learns."""
    raw_advantages_BT: Tensor
    """Before whitening."""
    score_B: Tensor
    """Reward of each answer as the recipe states it, penalties for its end and length included, without KL."""
    sampled_BT: Tensor
    """Log-probabilities by the engine that drew the answers."""

    @property
    def sampler_difference(self) -> float:
        """Largest difference of log-probabilities between the engine that drew the answers and the trainer."""
        return float((self.sampled_BT - self.logp_BT).abs().max())

    @property
    def ratio_N(self) -> Tensor:
        """Trainer's over sampler's probability of each real token, in float64."""
        return (self.logp_BT - self.sampled_BT)[self.mask_BT].double().exp()

    @property
    def k1_B(self) -> Tensor:
        """Sum over an answer's tokens of log(policy / reference), the k1 estimate of its KL in nats."""
        return (self.logp_BT - self.reference_BT).sum(1)

    @property
    def k3_B(self) -> Tensor:
        """The same by k3: of less variance, never negative."""
        return self._summed("k3")

    @property
    def k2_B(self) -> Tensor:
        """The same by k2: never negative, and biased."""
        return self._summed("k2")

    def _summed(self, estimator: Estimator) -> Tensor:
        return torch.where(self.mask_BT, kl_estimate(self.logp_BT, self.reference_BT, estimator), 0.0).sum(1)


def collect(
    rollout: Rollout,
    players: Players,
    config: PPO,
    coefficient: float,
    ranks: Ranks,
    micro_batch: int | None = None,
    running: RunningMoments | None = None,
) -> Experience:
    """Score every answer's tokens with policy, reference and critic; make rewards, advantages (whitened over all processes) and returns of them.

    `running` takes in the rollout's rewards, which are then learned as standardised by it.
    """
    completions = [completion.ids for completion in rollout.completions]
    sweep = Sweep(rollout.prompt_ids, completions, micro_batch, next(players.policy.module.parameters()).device)

    logp_BT, entropy_BT, reference_BT, values_BT = sweep.over(players.look, ranks.most)
    mask_BT = sweep.mask_BT
    score_B = learned_B = answer_scores(rollout, config, torch.from_numpy(rollout.scores.total).float())
    if running is not None:
        total_B = torch.from_numpy(rollout.scores.total)
        running.add(total_B, ranks.sum)
        learned_B = answer_scores(rollout, config, running.standardise(total_B).float())
    rewards_BT = token_rewards(learned_B, kl_estimate(logp_BT, reference_BT, "k1"), mask_BT, coefficient)
    raw_BT = gae(rewards_BT, values_BT, mask_BT, gamma=config.gamma, lam=config.lam)
    critic_lam = config.lam if config.critic_lam is None else config.critic_lam
    targets_BT = raw_BT if critic_lam == config.lam else gae(rewards_BT, values_BT, mask_BT, gamma=config.gamma, lam=critic_lam)
    sampled_BT = sampled_logprobs(rollout, mask_BT)
    advantages_BT = whiten(raw_BT, mask_BT, ranks.sum) if config.whiten else raw_BT
    if config.cap is not None:
        advantages_BT = advantages_BT * importance_weights(logp_BT, sampled_BT, mask_BT, config.cap)
    return Experience(
        samples=rollout.samples,
        prompts=rollout.prompt_ids,
        completions=completions,
        mask_BT=mask_BT,
        logp_BT=logp_BT,
        reference_BT=reference_BT,
        entropy_BT=entropy_BT,
        values_BT=values_BT,
        rewards_BT=rewards_BT,
        advantages_BT=advantages_BT,
        returns_BT=targets_BT + values_BT,
        raw_advantages_BT=raw_BT,
        score_B=score_B,
        sampled_BT=sampled_BT,
    )


def answer_scores(rollout: Rollout, config: PPO, total_B: Tensor) -> Tensor:
    """The sums of rewards (B) with the penalties for not ending and for nearing the limit."""
    finished_B = torch.tensor([completion.finished for completion in rollout.completions])
    score_B = finished_scores(total_B, finished_B, config.missing_eos_penalty)
    if config.overlong is None:
        return score_B
    length_B = torch.tensor([len(completion.ids) for completion in rollout.completions])
    return score_B + overlong_penalty(length_B, config.sampling.max_new_tokens, config.overlong)


def sampled_logprobs(rollout: Rollout, mask_BT: Tensor) -> Tensor:
    """The engine's own log-probabilities as (B, T), 0 where masked."""
    logp_BT = torch.zeros(mask_BT.shape)
    logp_BT[mask_BT] = torch.tensor([logp for completion in rollout.completions for logp in completion.logprobs])
    return logp_BT
