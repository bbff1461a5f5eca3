"""What a careful reader would point at: signs of trouble in a run's numbers, each with its likely cause and what to try."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from pydantic import ValidationError

from pipeline.gates import missed_gates
from pipeline.report.catalogue import meaning, parse, pretty
from pipeline.report.reading import Run, Stage
from pipeline.report.series import Series


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    stage: str
    level: Literal["problem", "watch"]
    what: str
    cause: str


Sign = Callable[[Stage], Iterator[Finding]]


def findings(run: Run) -> list[Finding]:
    """All findings, problems first, in the order of the stages."""
    found = [finding for stage in run.stages for sign in SIGNS for finding in sign(stage)]
    return sorted(found, key=lambda finding: finding.level != "problem")


def _stopped(stage: Stage) -> Iterator[Finding]:
    if stage.state == "failed":
        words = stage.attempts[-1].last_words if stage.attempts else ""
        yield Finding(
            stage.name,
            "problem",
            f"The last attempt failed: {words or 'no last words'}",
            "Mend what it names and start the same command; finished stages are kept.",
        )
    elif stage.state == "interrupted":
        yield Finding(stage.name, "watch", "The stage was interrupted.", "The same command goes on from its last checkpoint.")


def _unreadable(stage: Stage) -> Iterator[Finding]:
    if stage.curves.unreadable_lines:
        yield Finding(
            stage.name,
            "watch",
            f"{stage.curves.unreadable_lines} lines of metrics.jsonl could not be read.",
            "A torn write after a crash; the curves lack those points.",
        )


def _non_finite(stage: Stage) -> Iterator[Finding]:
    for series in stage.curves.series:
        # A number that is never finite was not measured; one that is so between others went wrong.
        if (
            series.non_finite
            and series.values
            and parse(series.name).base in ("loss", "grad_norm", "reward", "kl", "value_loss", "policy_loss")
        ):
            where = f"step {series.non_finite[0]:g}"
            yield Finding(
                stage.name,
                "problem",
                f"{meaning(series.name).label} was not finite at {len(series.non_finite)} steps, first at {where}.",
                "Numbers ran over: lower the learning rate, lengthen the warm-up, or train in fp32.",
            )


def _diverging(stage: Stage) -> Iterator[Finding]:
    loss = _base(stage, "loss")
    if stage.kind in ("pretrain", "sft", "reward") and loss and len(loss.values) >= 20:
        tail = fmean(loss.values[-len(loss.values) // 10 :])
        best = min(_windows(loss.values))
        start = loss.values[0]
        if tail - best > 0.25 * max(start - best, 1e-9):
            yield Finding(
                stage.name,
                "problem",
                f"The loss ends at {pretty(tail)}, well above its best stretch of {pretty(best)}.",
                "Training diverged late: lower the learning rate or clip gradients harder.",
            )


def _windows(values: tuple[float, ...]) -> list[float]:
    size = max(1, len(values) // 10)
    return [fmean(values[i : i + size]) for i in range(0, len(values) - size + 1, size)]


def _overfitting(stage: Stage) -> Iterator[Finding]:
    held_out = _base(stage, "loss", held_out=True)
    if held_out and len(held_out.values) >= 3:
        best = min(held_out.values)
        if held_out.values[-1] > 1.03 * best and held_out.values.index(best) < len(held_out.values) - 1:
            at = held_out.steps[held_out.values.index(best)]
            yield Finding(
                stage.name,
                "watch",
                f"The held-out loss was lowest at step {at:g} ({pretty(best)}) and ends at {pretty(held_out.values[-1])}.",
                "Overfitting: fewer epochs, more data, or a smaller learning rate.",
            )


def _weak_judge(stage: Stage) -> Iterator[Finding]:
    accuracy = stage.metrics.get("accuracy")
    if stage.kind != "reward" or accuracy is None:
        return
    baseline = stage.metrics.get("length_baseline")
    if accuracy < 0.6:
        yield Finding(
            stage.name,
            "problem",
            f"The reward model prefers the better answer in only {accuracy:.0%} of held-out pairs.",
            "PPO will follow noise: more or cleaner pairs, a better base, or more training.",
        )
    elif baseline is not None and max(baseline, 1 - baseline) >= accuracy - 0.02:
        yield Finding(
            stage.name,
            "problem",
            f"Choosing by length alone is about as good ({max(baseline, 1 - baseline):.0%}) as the reward model ({accuracy:.0%}).",
            "It may have learned length: balance the pairs by length.",
        )


def _warned(stage: Stage) -> Iterator[Finding]:
    """Warnings that the stage itself gave: `entropy-collapse at rollout 31: the policy hardly varies ...`."""
    for note in stage.notes:
        if match := NAMED_WARNING.match(note):
            yield Finding(
                stage.name, "problem", f"{match['name'].replace('-', ' ').capitalize()} at {match['when']}:", f"{match['sentence']}."
            )


NAMED_WARNING = re.compile(r"(?P<name>[a-z]+(-[a-z]+)+) at (?P<when>(rollout|step) \d+): (?P<sentence>.*[^.])\.?$")


def _policy(stage: Stage) -> Iterator[Finding]:
    if stage.kind != "ppo" or any(NAMED_WARNING.match(note) for note in stage.notes):
        return  # the stage watched itself, and more closely than its curves can be read afterwards
    for base, low, high, what, cause in POLICY_LIMITS:
        series = _base(stage, base)
        if series and len(series.values) >= 5:
            level = median(series.values[-max(3, len(series.values) // 5) :])
            if level < low or level > high:
                yield Finding(stage.name, "watch", what.format(value=pretty(level, meaning(base).unit)), cause)
    entropy = _base(stage, "entropy")
    if entropy and len(entropy.values) >= 10 and entropy.values[0] > 0 and fmean(entropy.values[-5:]) < 0.2 * fmean(entropy.values[:5]):
        yield Finding(
            stage.name,
            "watch",
            f"Entropy fell from {pretty(fmean(entropy.values[:5]))} to {pretty(fmean(entropy.values[-5:]))} nats.",
            "The policy has stopped exploring: strengthen the KL penalty or add an entropy bonus.",
        )


POLICY_LIMITS: tuple[tuple[str, float, float, str, str], ...] = (
    ("clip_fraction", -1, 0.3, "In the end {value} of the tokens are clipped.", "Updates are too large: lower the policy's learning rate or the number of epochs."),
    ("explained_variance", 0.0, 2, "In the end the critic explains {value} of the variance: worse than a constant.", "Give the critic a longer warm-up or a higher learning rate."),
    ("eos_rate", 0.7, 2, "In the end only {value} of the answers finish.", "Raise sampling.max_new_tokens or missing_eos_penalty."),
)  # fmt: skip


def _over_optimised(stage: Stage) -> Iterator[Finding]:
    truth, reward = _base(stage, "truth"), _base(stage, "reward")
    if stage.kind == "ppo" and truth and reward and len(truth.values) >= 10:
        best, last = max(_windows(truth.values)), _windows(truth.values)[-1]
        if last < best - 0.05 * max(abs(best), 1e-9) and _windows(reward.values)[-1] >= max(_windows(reward.values)[:-1]):
            yield Finding(
                stage.name,
                "problem",
                f"The reward still rises while the truth fell from {pretty(best)} to {pretty(last)}.",
                "The policy exploits the reward model: stop earlier, or strengthen the KL penalty.",
            )


def _missed_gates(stage: Stage) -> Iterator[Finding]:
    gates = stage.settings.get("require")
    try:
        missed = missed_gates(gates, stage.metrics) if isinstance(gates, dict) and stage.state == "done" else []
    except ValidationError:  # written by another version
        missed = []
    for clause in missed:
        yield Finding(stage.name, "problem", f"It misses its gate: {clause}.", "The stages that need this one do not start.")


def _base(stage: Stage, base: str, *, held_out: bool = False) -> Series | None:
    """The plain series of a base name."""
    fitting = (series for series in stage.curves.series if series.values and math.isfinite(series.values[-1]))
    return next(
        (series for series in fitting if (named := parse(series.name)).base == base and named.held_out == held_out and not named.part), None
    )


SIGNS: tuple[Sign, ...] = (
    _stopped, _missed_gates, _non_finite, _diverging, _overfitting, _weak_judge, _warned, _policy, _over_optimised, _unreadable,
)  # fmt: skip
