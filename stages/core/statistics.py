"""How sure a number is: intervals over prompts or pairs, and best-of-n from a fixed number of samples. Pure: numpy in, numbers out.

N prompts, K samples of each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NORMAL_95 = 1.959963984540054
"""Standard deviations on each side of the mean that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def wilson(successes: float, trials: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which stays within [0, 1] and is right for shares near 0 and 1.

    `successes` may be fractional: a tie counts one half. Raises ValueError without trials.
    """
    if trials <= 0:
        raise ValueError("a share of nothing has no interval")
    share, z = successes / trials, NORMAL_95
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    # At a share of exactly 0 or 1 the ends meet the share but for rounding.
    return Estimate(share, min(max(centre - reach, 0.0), share), max(min(centre + reach, 1.0), share))


def bootstrap(values_N: Floats, *, seed: int, draws: int = 1000) -> Estimate:
    """A mean with its percentile bootstrap interval over the N values (Efron 1979). Raises ValueError without values."""
    return bootstrap_of(lambda rows_N: float(values_N[rows_N].mean()), len(values_N), seed=seed, draws=draws)


def bootstrap_of(statistic: Callable[[NDArray[np.int64]], float], count: int, *, seed: int, draws: int = 1000) -> Estimate:
    """A function of rows 0 to `count` with its percentile bootstrap interval over them. Raises ValueError without rows."""
    if not count:
        raise ValueError("a mean of nothing has no interval")
    generator = np.random.default_rng(seed)
    found = np.array([statistic(generator.integers(count, size=count)) for _ in range(draws)])
    return Estimate(statistic(np.arange(count)), float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975)))


def estimate(values_N: Floats, *, seed: int) -> Estimate:
    """Wilson's interval where every value is 0, one half or 1, else the bootstrap's."""
    if np.isin(values_N, (0.0, 0.5, 1.0)).all():
        return wilson(float(values_N.sum()), len(values_N))
    return bootstrap(values_N, seed=seed)


def wins(ours_N: Floats, theirs_N: Floats) -> Floats:
    """1 where ours is larger, 0 where theirs is, one half where they tie."""
    return (np.sign(ours_N - theirs_N) + 1) / 2


def best_of(rewards_NK: Floats, values_NK: Floats, n: int) -> Floats:
    """For each prompt, the expected value of the answer with the best reward among `n` of its K samples, drawn without replacement.

    The average over all C(K, n) choices, so that it uses every sample: the answer of the i-th smallest reward is the best of
    C(i - 1, n - 1) of them. Answers with equal rewards share their weight. Raises ValueError if n is not between 1 and K.
    """
    samples = rewards_NK.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"best of {n} cannot be told from {samples} samples")
    weights_K = np.array([math.comb(rank, n - 1) for rank in range(samples)], dtype=np.float64) / math.comb(samples, n)
    best_N = np.empty(len(rewards_NK))
    for row, (rewards_K, values_K) in enumerate(zip(rewards_NK, values_NK, strict=True)):
        order = np.argsort(rewards_K, kind="stable")
        _, group = np.unique(rewards_K[order], return_inverse=True)
        shared_K = np.bincount(group, weights_K)[group] / np.bincount(group)[group]
        best_N[row] = shared_K @ values_K[order]
    return best_N


def best_of_kl(n: int) -> float:
    """Upper bound on KL(best of n || one sample), in nats: log n - (n - 1) / n (Stiennon et al. 2020; a bound by Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n


def above_best_of(reward_N: Floats, kl_N: Floats, baseline_NK: Floats, *, seed: int, weights_N: Floats | None = None) -> Estimate | None:
    """How far a model's mean reward lies above that of the best of n of the baseline's K samples, at the model's own mean KL to the baseline.

    n runs over 1 to K at its KL bound, straight lines between. The interval draws prompts anew for reward, KL and curve together. `weights_N` says how
    often each prompt counts in all means; once if left out. None where the KL is larger than that of the best of K: there is nothing to compare with.
    """
    weights_N = np.ones(len(reward_N)) if weights_N is None else weights_N
    distances_K = np.array([best_of_kl(n) for n in range(1, baseline_NK.shape[1] + 1)])
    if np.average(kl_N, weights=weights_N) > distances_K[-1] + 1e-9:
        return None
    curve_NK = np.stack([best_of(baseline_NK, baseline_NK, n) for n in range(1, baseline_NK.shape[1] + 1)], axis=1)

    def above(rows_N: NDArray[np.int64]) -> float:
        reward, kl, curve_K = (np.average(values[rows_N], axis=0, weights=weights_N[rows_N]) for values in (reward_N, kl_N, curve_NK))
        return float(reward - np.interp(kl, distances_K, curve_K))

    return bootstrap_of(above, len(reward_N), seed=seed)


def correlation(first_N: Floats, second_N: Floats) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    first_N, second_N = first_N - first_N.mean(), second_N - second_N.mean()
    scale = math.sqrt(float(first_N @ first_N) * float(second_N @ second_N))
    return float(first_N @ second_N) / scale if scale > 0 else 0.0
