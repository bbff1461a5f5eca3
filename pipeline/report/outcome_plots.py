"""Plots of what a run came to: truth against reward, reward against distance beside best-of-n, the way of a policy, and how rewards are spread."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.report.charts import Dot, Histogram, Line, Scatter, histogram, scatter
from pipeline.report.exams import Exam
from pipeline.report.reading import Run, Stage
from pipeline.report.series import thin, trend

FEW = 12
"""Rewards of a model that make no distribution."""


@dataclass(frozen=True)
class Points:
    """What the evaluation left for plots, of one exam; empty where an older one left nothing."""

    baseline: str = ""
    rewards: dict[str, list[float]] = field(default_factory=dict)
    best_of: dict[str, list[float]] = field(default_factory=dict)
    """`n`, `kl`, `reward` and `truth`, as long as one another."""


def points_of(value: Any, exam: Exam) -> Points:
    """The points of an exam in the file's content, whatever it is."""
    if not isinstance(value, dict) or not isinstance(value.get("exams"), list):
        return Points()
    for one in value["exams"]:
        if isinstance(one, dict) and (not exam.name or one.get("name") == exam.name):
            rewards = {str(name): _numbers(values) for name, values in _mapping(one.get("rewards")).items()}
            curve = {name: _numbers(values) for name, values in _mapping(one.get("best_of")).items()}
            whole = len({len(values) for values in curve.values()}) == 1 and {"n", "kl", "reward", "truth"} <= set(curve)
            return Points(str(value.get("baseline", "")), rewards, curve if whole else {})
    return Points()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float)] if isinstance(values, list) else []


def truth_plot(stage: Stage, exam: Exam, points: Points) -> Scatter | None:
    """Truth over reward, with the line of descent through the models and the curve of best-of-n."""
    if exam.truth is None:
        return None
    dots = exam.dots("reward", exam.truth)
    family = [dot for dot in dots if dot.shape == "circle"]
    lines = [Line("descent", [dot.x for dot in family], [dot.y for dot in family], 0, "faint")] if len(family) > 1 else []
    lines += best_of_line(points, "reward", "truth")
    text = "Up and to the right is learning; to the right and down is a reward model that is being exploited."
    labels = ("reward", exam.truth.replace("_", " "))
    return scatter(f"{stage.name}-truth", titled("Truth against reward", exam), text, labels, dots, lines)


def frontier(run: Run, stage: Stage, exam: Exam, points: Points) -> Scatter | None:
    """Reward bought per nat of KL by what was trained from the baseline, beside what choosing among n of its answers buys."""
    dots = exam.dots("kl", "reward")
    trained = [dot for dot in dots if dot.shape != "circle" or descends(run, dot.label, points.baseline)]
    dots = trained if sum(dot.shape == "circle" for dot in trained) > 1 else dots
    if not dots:
        return None
    text = (
        "Reward against the distance from the baseline, on the same prompts. The line is best-of-n: what choosing by reward among n of the "
        "baseline's answers gives without training. Above it, training found more than the baseline would have said."
    )
    labels = ("KL to the baseline, nats", "reward")
    return scatter(f"{stage.name}-frontier", titled("KL and reward", exam), text, labels, dots, best_of_line(points, "kl", "reward"))


def descends(run: Run, name: str, ancestor: str) -> bool:
    """Whether a model is the ancestor or was trained from it; of all is it said where no ancestor is known."""
    if not ancestor or name == ancestor:
        return True
    above = [parent for parent, kind in run.parents().get(name, {}).items() if kind == "model"]
    return any(descends(run, parent, ancestor) for parent in above)


def best_of_line(points: Points, x: str, y: str) -> list[Line]:
    if len(points.best_of.get("n", ())) < 2:
        return []
    longest = int(max(points.best_of["n"]))
    return [Line(f"best of 1 to {longest} of {points.baseline}", points.best_of[x], points.best_of[y], 3, "dashed")]


def ways(run: Run) -> list[Scatter]:
    """For every policy in training: reward and distance at each evaluation, from the start to where it stands."""
    return [plot for stage in run.stages if stage.kind == "ppo" and (plot := _way(stage)) is not None]


def _way(stage: Stage) -> Scatter | None:
    held_out = stage.curves["held_out_kl"] and stage.curves["held_out_reward"]
    kl, reward = (stage.curves[f"held_out_{name}" if held_out else name] for name in ("kl", "reward"))
    if kl is None or reward is None:
        return None
    both = sorted(set(kl.steps) & set(reward.steps))
    if len(both) < 3:
        return None
    by_step = [dict(zip(series.steps, series.values, strict=True)) for series in (kl, reward)]
    xs, ys = ([values[step] for step in both] for values in by_step)
    if not held_out:  # of single rollouts, the trend
        kept, _ = thin(both, ys, 120)
        xs, ys = ([trend(values, 0.1)[both.index(step)] for step in kept] for values in (xs, ys))
    dots = [Dot("start", xs[0], ys[0], 7), Dot(f"step {both[-1]:g}", xs[-1], ys[-1], 2)]
    text = f"{'Held-out prompts' if held_out else 'Rollouts'}, from the start to the end. Sideways is drift that buys no reward."
    labels = ("KL to the reference, nats", "reward")
    return scatter(f"{stage.name}-way", f"The way of {stage.name}", text, labels, dots, [Line(stage.name, xs, ys, 2, "solid")])


def spread(stage: Stage, exam: Exam, points: Points, shown: dict[str, list[float]]) -> Histogram | None:
    """How rewards are spread: over all answers where the evaluation left them, else over those that are shown."""
    rewards, which = (points.rewards, "all sampled") if points.rewards else (shown, "the shown")
    if all(len(values) < FEW for values in rewards.values()):
        return None
    text = f"Share of {which} answers by reward, each model's by itself."
    return histogram(f"{stage.name}-{exam.name}-rewards", titled("Reward distribution", exam), text, rewards)


def titled(title: str, exam: Exam) -> str:
    return f"{title}: {exam.name}" if exam.name else title
