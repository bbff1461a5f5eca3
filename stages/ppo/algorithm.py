"""Proximal policy optimization with a KL penalty, as pure functions on tensors. Imports torch only.

Legend of the shape suffixes
    B  answers of a rollout (or of a part of it)
    T  tokens of the longest answer; shorter ones are padded on the right
    N  real tokens, taken out of (B, T) row by row

`mask_BT` is True on tokens that the policy generated, the end-of-turn token included. What stands in masked slots never matters: it may be NaN
or 1e9. Therefore nothing here multiplies by a mask (NaN * 0 is NaN); tokens are selected, or replaced by `torch.where` before any arithmetic.

Sums over several processes go through one seam: every function that needs them takes `reduce`, which gets a tensor of this process's sums and
gives the sums over all processes. Alone, it is the identity.

Sources: PPO, Schulman et al. 2017 (1707.06347); GAE, Schulman et al. 2016 (1506.02438); KL penalty in the reward and its adaptive coefficient,
Ziegler et al. 2019 (1909.08593); estimators k1 to k3, Schulman 2020 (joschu.net/blog/kl-approx); dual clip, Ye et al. 2020 (1912.09729).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
Estimator = Literal["k1", "k2", "k3"]
Aggregation = Literal["token", "sequence"]

LARGEST_LOG_RATIO = 20.0
"""exp(20) is 5e8: beyond it a ratio is clipped anyway, and exp would overflow to inf and then NaN."""


def alone(sums: Tensor) -> Tensor:
    """The `reduce` of a single process."""
    return sums


# --- the KL penalty ---------------------------------------------------------------------------------------------------------------------


def kl_estimate(logp: Tensor, reference_logp: Tensor, estimator: Estimator) -> Tensor:
    """KL(policy || reference) per sampled token, from the two log-probabilities of that token; any shape.

    With d = logp - reference_logp (Schulman 2020):
    k1 = d. Unbiased. The only one that is right *in the reward*: its policy gradient is that of the true KL. k2 and k3 there move the optimum.
    k2 = d^2 / 2. Biased as a number; as a *loss*, its gradient on on-policy samples is that of each token's own KL (credit across tokens is lost).
    k3 = exp(-d) - 1 + d. Unbiased and never negative: the best to *look at*. As a loss, its gradient is that of the reverse direction.
    """
    difference = logp - reference_logp
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1((-difference).clamp(max=LARGEST_LOG_RATIO)) + difference


@dataclass
class KLController:
    """The KL coefficient: fixed, or steered so that the mean KL of an answer meets `target` (Ziegler et al. 2019, section 2.2)."""

    coefficient: float
    target: float | None = None
    horizon: int = 10_000

    def adapt(self, mean_kl: float, answers: int) -> None:
        """After a rollout of `answers` answers with `mean_kl` nats each: at most 20 % of the proportional error counts, spread over the horizon."""
        if self.target is None:
            return
        error = min(max(mean_kl / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * answers / self.horizon


# --- rewards and advantages -------------------------------------------------------------------------------------------------------------


def finished_scores(score_B: Tensor, finished_B: Tensor, missing_eos_penalty: float) -> Tensor:
    """Scores (B) less a fixed penalty for answers that did not end by themselves (the 'EOS trick', Huang et al. 2024, 2403.17031)."""
    return torch.where(finished_B, score_B, score_B - missing_eos_penalty)


def overlong_penalty(length_B: Tensor, limit: int, buffer: int) -> Tensor:
    """0 up to `limit - buffer` tokens, then falling in a line to -1 at `limit` (DAPO, Yu et al. 2025, 2503.14476, equation 13). (B) float32."""
    return -((length_B.float() - (limit - buffer)) / buffer).clamp(0.0, 1.0)


@dataclass
class RunningMoments:
    """Count, mean and population variance of all scores so far, merged rollout by rollout (Chan, Golub & LeVeque 1979)."""

    count: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    def add(self, score_B: Tensor, reduce: Reduce = alone) -> None:
        """Take in a rollout's scores (B), of all processes."""
        count, mean, variance = moments(score_B, torch.ones_like(score_B, dtype=torch.bool), reduce)
        whole, difference = self.count + count, mean - self.mean
        self.variance = (self.count * self.variance + count * variance + difference**2 * self.count * count / whole) / whole
        self.mean += difference * count / whole
        self.count = whole

    def standardise(self, score_B: Tensor, smallest_std: float = 1e-6) -> Tensor:
        """Scores less the mean, over the deviation; only centred where that is below `smallest_std`."""
        std = self.variance**0.5
        return (score_B - self.mean) / (std if std >= smallest_std else 1.0)


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """Reward of every token (B, T): -coefficient * KL of that token, and the answer's score on its last real token; 0 where masked.

    Every row must hold a real token (ValueError), or its score would be lost.
    """
    if not bool(mask_BT.any(dim=1).all()):
        raise ValueError("an answer without a token has no place for its score")
    zero = torch.zeros((), dtype=kl_BT.dtype, device=kl_BT.device)
    rewards_BT = torch.where(mask_BT, -coefficient * kl_BT, zero)
    columns_T = torch.arange(mask_BT.size(1), device=mask_BT.device)
    last_B = torch.where(mask_BT, columns_T, -1).amax(dim=1)
    rows_B = torch.arange(mask_BT.size(0), device=mask_BT.device)
    return rewards_BT.index_put((rows_B, last_B), score_B.to(rewards_BT.dtype), accumulate=True)


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16): A_t = sum over l of (gamma lam)^l delta_{t+l}. (B, T), 0 where masked.

    delta_t = r_t + gamma V_{t+1} - V_t, and the value after the last token is 0. A hole in the mask (a tool's words between two turns) is
    stepped over: value and advantage of the next real token are carried across it, as if the row had been compressed.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = torch.zeros_like(rewards_BT[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(rewards_BT.size(1))):
        real_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        advantages_BT[:, t] = torch.where(real_B, advantage_B, 0.0)
        next_advantage_B = torch.where(real_B, advantage_B, next_advantage_B)
        next_value_B = torch.where(real_B, values_BT[:, t], next_value_B)
    return advantages_BT


class Moments(NamedTuple):
    size: float
    """Real tokens of all processes."""
    mean: float
    variance: float


def moments(values_BT: Tensor, mask_BT: Tensor, reduce: Reduce = alone) -> Moments:
    """Count, mean and population variance of the real tokens of all processes; two reductions, in float64. Zeros if there are none."""
    values_N = values_BT[mask_BT].double()
    count, total = reduce(torch.stack([values_N.new_tensor(float(values_N.numel())), values_N.sum()])).tolist()
    if count == 0:
        return Moments(0.0, 0.0, 0.0)
    mean = total / count
    squares = reduce((values_N - mean).square().sum().reshape(1)).item()
    return Moments(count, mean, squares / count)


def whiten(values_BT: Tensor, mask_BT: Tensor, reduce: Reduce = alone, smallest_std: float = 1e-6) -> Tensor:
    """Values brought to mean 0 and deviation 1 over the real tokens of *all* processes, so that the result does not depend on their number.

    Where the deviation is below `smallest_std` there is nothing to learn, and dividing would blow up rounding noise: values are only centred.
    (B, T), 0 where masked.
    """
    statistics = moments(values_BT, mask_BT, reduce)
    std = statistics.variance**0.5
    scale = 1.0 / std if std >= smallest_std else 1.0
    return torch.where(mask_BT, (values_BT - statistics.mean) * scale, 0.0)


def importance_weights(logp_BT: Tensor, sampled_logp_BT: Tensor, mask_BT: Tensor, cap: float) -> Tensor:
    """min(p / q, cap) per token, where the trainer gives it p and the engine that drew it q; (B, T), 0 where masked.

    Truncated importance sampling (Espeholt et al. 2018; for engines of other arithmetic, Yao et al. 2025): what was drawn from q counts as if it
    had been drawn from p, but no token counts more than `cap` times. Off-policy sequences are corrected token by token, which is biased in
    principle and of far lower variance than the product of a whole answer.
    """
    ratio_BT = (logp_BT - sampled_logp_BT).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    return torch.where(mask_BT, ratio_BT.clamp(max=cap), 0.0)


# --- losses -----------------------------------------------------------------------------------------------------------------------------


def token_weights(mask_BT: Tensor, tokens: float, answers: float, aggregation: Aggregation = "token") -> Tensor:
    """Weight of every real token in a loss, (N) float32: the weights of all tokens of an optimizer step, over all its parts, add up to 1.

    `tokens` and `answers` count the whole optimizer step over all micro-batches and processes: an average of averages would depend on the cut.
    token: every token alike, so long answers weigh more. sequence: every answer alike (its tokens share 1 / answers).
    """
    if aggregation == "token":
        return torch.full((int(mask_BT.sum()),), 1.0 / tokens, device=mask_BT.device)
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return (1.0 / (answers * lengths_B1)).expand_as(mask_BT)[mask_BT]


class PolicyLoss(NamedTuple):
    loss: Tensor
    """Scalar: this part's contribution to the step's loss."""
    ratio_N: Tensor
    """Policy over rollout policy, detached."""
    clipped_N: Tensor
    """True where the clip took the gradient away."""
    approximate_kl_N: Tensor
    """k3 of the rollout policy against the policy, detached: how far this update has moved."""


def policy_loss(
    logp_N: Tensor,
    old_logp_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate (Schulman et al. 2017, equation 7), negated: -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

    `dual_clip` c > 1 bounds the loss of a negative advantage at c |A| (Ye et al. 2020, equation 5): one stale, now likely token cannot dominate.
    All inputs are (N) real tokens.
    """
    log_ratio_N = (logp_N - old_logp_N).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    free_N = ratio_N * advantages_N
    limited_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_N
    surrogate_N = torch.minimum(free_N, limited_N)
    clipped_N = limited_N < free_N
    if dual_clip is not None:
        floor_N = dual_clip * advantages_N
        too_low_N = (advantages_N < 0) & (surrogate_N < floor_N)
        surrogate_N = torch.where(too_low_N, floor_N, surrogate_N)
        clipped_N = clipped_N | too_low_N
    approximate_kl_N = kl_estimate(old_logp_N, logp_N.detach(), "k3")
    return PolicyLoss(-(surrogate_N * weights_N).sum(), ratio_N.detach(), clipped_N, approximate_kl_N)


class ValueLoss(NamedTuple):
    loss: Tensor
    """Scalar: this part's contribution to the step's loss."""
    clipped_N: Tensor
    """True where the clip took the gradient away."""


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, weights_N: Tensor, *, clip: float | None) -> ValueLoss:
    """Half the squared error, or the larger of it and that of the value kept within `clip` of the rollout's (the PPO paper's code; None: no clip)."""
    error_N = (values_N - returns_N).square()
    if clip is None:
        return ValueLoss(0.5 * (error_N * weights_N).sum(), torch.zeros_like(error_N, dtype=torch.bool))
    near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    near_error_N = (near_N - returns_N).square()
    worst_N = torch.maximum(error_N, near_error_N)
    return ValueLoss(0.5 * (worst_N * weights_N).sum(), near_error_N > error_N)


# --- looking at it ----------------------------------------------------------------------------------------------------------------------


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, reduce: Reduce = alone) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a constant one, below 0 worse than a constant. 0 if returns do not vary."""
    spread = moments(returns_BT, mask_BT, reduce).variance
    residual = moments(returns_BT - values_BT, mask_BT, reduce).variance
    return 1.0 - residual / spread if spread > 1e-12 else 0.0
