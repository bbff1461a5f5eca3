"""What held-out pairs say about a reward model: accuracy by slice, calibration, length, and the truth where it is known. Pure: numpy only.

N pairs; scores are raw rewards; a tie counts one half everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.contract import Table
from stages.core.statistics import Floats, correlation, wilson, wins

LENGTH_STEP = 10
"""Answers that differ by more tokens than this differ much."""
BINS = 10
"""Of confidence, from one half to 1, in the reliability curve."""


@dataclass(frozen=True)
class Judged:
    """Held-out pairs with their scores; the chosen answer is the one that the label prefers."""

    chosen: Floats
    rejected: Floats
    chosen_tokens: NDArray[np.int64]
    """Tokens of the chosen answer, without the prompt."""
    rejected_tokens: NDArray[np.int64]
    sources: Sequence[str]
    groups: Sequence[str | None]
    margin: Floats
    """As the rows state it; NaN where they do not."""
    utility: Floats
    """True utility of the chosen answer less that of the rejected one; NaN where it is not known."""

    @property
    def right(self) -> Floats:
        return wins(self.chosen, self.rejected)

    @property
    def difference(self) -> Floats:
        return self.chosen - self.rejected

    @property
    def longer(self) -> NDArray[np.int64]:
        """Tokens that the chosen answer has more than the rejected one."""
        return self.chosen_tokens - self.rejected_tokens


def accuracy_metrics(judged: Judged) -> dict[str, float]:
    """Accuracy with its interval, by group and by source where there are several, and the oracle's where utilities are known. A group called as an end of
    the interval is told as `accuracy_group_low` or `_high`."""
    whole = wilson(float(judged.right.sum()), len(judged.right))
    metrics = {"accuracy": whole.mean, "accuracy_low": whole.low, "accuracy_high": whole.high}
    groups, sources = (sorted({name for name in names if name is not None}) for names in (judged.groups, judged.sources))
    for name in groups:
        metrics[f"accuracy_{'group_' if name in ('low', 'high') else ''}{name}"] = float(judged.right[_where(judged.groups, name)].mean())
    if len(sources) > 1:
        metrics |= {f"accuracy_source_{name}": float(judged.right[_where(judged.sources, name)].mean()) for name in sources}
    return metrics | _truth_metrics(judged)


def _truth_metrics(judged: Judged) -> dict[str, float]:
    """How often the truth agrees with the noisy labels, and how the rewards relate to it; empty where no utility is known."""
    known_N = ~np.isnan(judged.utility)
    if not known_N.any():
        return {}
    utility, difference = judged.utility[known_N], judged.difference[known_N]
    # Both differences change sign with the labels, which are noisy: a line through the origin is the one fit that does not.
    slope = float(utility @ difference) / max(float(utility @ utility), 1e-12)
    cosine = float(utility @ difference) / max(float(np.linalg.norm(utility) * np.linalg.norm(difference)), 1e-12)
    return {
        "oracle_accuracy": float(wins(utility, np.zeros_like(utility)).mean()),
        "utility_agreement": float(wins(utility * difference, np.zeros_like(utility)).mean()),
        "utility_correlation": cosine,
        "utility_slope": slope,
    }


def calibration_metrics(judged: Judged) -> dict[str, float]:
    """Mean loss, and the expected calibration error: the mean distance of confidence and accuracy over bins, weighted by their pairs."""
    bins = reliability(judged.difference)
    pairs = sum(each.pairs for each in bins)
    return {
        "held_out_loss": float(np.logaddexp(0.0, -judged.difference).mean()),
        "calibration_error": sum(each.pairs * abs(each.confidence - each.accuracy) for each in bins) / pairs,
    }


@dataclass(frozen=True)
class Bin:
    """Pairs of about equal confidence."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


def reliability(difference_N: Floats) -> list[Bin]:
    """The reliability curve (Guo et al. 2017): confidence is the Bradley-Terry probability of the answer that the model prefers."""
    confidence_N = 1.0 / (1.0 + np.exp(-np.abs(difference_N)))
    right_N = wins(difference_N, np.zeros_like(difference_N))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    place_N = np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, BINS - 1)
    told = []
    for number in range(BINS):
        inside = place_N == number
        if inside.any():
            means = float(confidence_N[inside].mean()), float(right_N[inside].mean())
            told.append(Bin(float(edges[number]), float(edges[number + 1]), int(inside.sum()), *means))
    return told


def reward_metrics(judged: Judged) -> dict[str, float]:
    """Mean and deviation of the rewards of all held-out answers, and how they follow the answers' lengths."""
    scores = np.concatenate([judged.chosen, judged.rejected])
    tokens = np.concatenate([judged.chosen_tokens, judged.rejected_tokens]).astype(np.float64)
    return {
        "reward_mean": float(scores.mean()),
        "reward_std": float(scores.std()),
        "length_correlation": correlation(scores, tokens),
    }


def probe_metrics(probes: Judged, reward_std: float) -> dict[str, float]:
    """What the model thinks of pairs outside of its training data: accuracy, and mean and deviation of the better answer's lead.

    The better answer is the one of higher true utility, or the preferred one where no utility is known. Leads are in units of `reward_std`, in
    which PPO sees rewards: a deviation that is large against the mean is noise that best-of-n and PPO will find.
    """
    sign_N = np.where(np.nan_to_num(probes.utility, nan=1.0) < 0, -1.0, 1.0)
    lead_N = sign_N * probes.difference / max(reward_std, 1e-6)
    accuracy = float(wins(lead_N, np.zeros_like(lead_N)).mean())
    return {"probe_accuracy": accuracy, "probe_lead": float(lead_N.mean()), "probe_deviation": float(lead_N.std())}


def shorter_wins(longer_N: NDArray[np.int64]) -> float:
    """Share of pairs in which the chosen answer is the shorter one; that the longer one wins is the rest."""
    return float(wins(np.zeros(len(longer_N)), longer_N.astype(np.float64)).mean())


def length_rule(train_longer_N: NDArray[np.int64], held_out_longer_N: NDArray[np.int64]) -> tuple[str, float]:
    """The length-only rule that is better on the training pairs, and its accuracy on the held-out ones."""
    shorter = shorter_wins(held_out_longer_N)
    return ("shorter wins", shorter) if shorter_wins(train_longer_N) >= 0.5 else ("longer wins", 1.0 - shorter)


def slices(judged: Judged) -> Table:
    """Accuracy by source, group, length difference and margin, beside the length rule's and the oracle's on the same pairs."""
    rows = [_slice("all", np.ones(len(judged.right), dtype=bool), judged)]
    rows += [_slice(f"source {name}", _where(judged.sources, name), judged) for name in sorted(set(judged.sources))]
    rows += [_slice(f"group {name}", _where(judged.groups, name), judged) for name in sorted({g for g in judged.groups if g is not None})]
    rows += [_slice(name, test(judged.longer), judged) for name, test in LENGTHS.items()]
    rows += [_slice(name, inside, judged) for name, inside in _margins(judged.margin)]
    columns = ["held-out pairs", "pairs", "accuracy", "low", "high", "shorter wins", "oracle"]
    return Table(title="Reward model", columns=columns, rows=[row for row in rows if row[1]])


def reliability_table(judged: Judged) -> Table:
    rows: list[list[str | float | None]] = [
        [f"{each.low:.2f} to {each.high:.2f}", each.pairs, each.confidence, each.accuracy] for each in reliability(judged.difference)
    ]
    return Table(title="Calibration of the reward model", columns=["confidence", "pairs", "mean confidence", "accuracy"], rows=rows)


LENGTHS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.bool_]]] = {
    f"chosen shorter by more than {LENGTH_STEP} tokens": lambda longer: longer < -LENGTH_STEP,
    f"chosen shorter by up to {LENGTH_STEP}": lambda longer: (longer >= -LENGTH_STEP) & (longer < 0),
    "equally long": lambda longer: longer == 0,
    f"chosen longer by up to {LENGTH_STEP}": lambda longer: (longer <= LENGTH_STEP) & (longer > 0),
    f"chosen longer by more than {LENGTH_STEP} tokens": lambda longer: longer > LENGTH_STEP,
}


def _margins(margin: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """The pairs with a margin, in three parts of about equal size by its absolute value."""
    size_N = np.abs(margin)
    known_N = ~np.isnan(size_N)
    if known_N.sum() < 3 or np.ptp(size_N[known_N]) == 0:
        return []
    first, second = np.quantile(size_N[known_N], [1 / 3, 2 / 3])
    return [
        (f"margin up to {first:.2g}", known_N & (size_N <= first)),
        (f"margin up to {second:.2g}", known_N & (size_N > first) & (size_N <= second)),
        (f"margin above {second:.2g}", known_N & (size_N > second)),
    ]


def _slice(name: str, inside_N: NDArray[np.bool_], judged: Judged) -> list[str | float | None]:
    pairs = int(inside_N.sum())
    if not pairs:
        return [name, 0, None, None, None, None, None]
    told = wilson(float(judged.right[inside_N].sum()), pairs)
    utility = judged.utility[inside_N & ~np.isnan(judged.utility)]
    oracle = float(wins(utility, np.zeros_like(utility)).mean()) if len(utility) else None
    return [name, pairs, told.mean, told.low, told.high, shorter_wins(judged.longer[inside_N]), oracle]


def _where(names: Sequence[str | None], name: str) -> NDArray[np.bool_]:
    return np.array([each == name for each in names], dtype=bool)
