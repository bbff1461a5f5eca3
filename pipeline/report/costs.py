"""What a run took: time, throughput and memory of every stage, side by side."""

from dataclasses import dataclass
from statistics import median

from pipeline.report.reading import Run, Stage


@dataclass(frozen=True)
class Cost:
    """What one stage took; None where it was not noted."""

    stage: str
    seconds: float | None
    share: float
    """Of the whole run's time."""
    steps: int
    tokens: float | None
    """Seen in training, over all attempts."""
    tokens_per_second: float | None
    """The median over the logged steps."""
    memory: float | None
    """Most bytes that one process held at once."""


def costs(run: Run) -> list[Cost]:
    """A line for each stage that has begun; nothing where no time was noted."""
    whole = run.seconds
    return [_cost(stage, whole) for stage in run.stages if stage.state != "waiting"] if whole else []


def _cost(stage: Stage, whole: float) -> Cost:
    rates, tokens = _values(stage, "tokens_per_second"), _values(stage, "tokens")
    # PPO logs the tokens of each rollout, the others how many they have seen so far.
    total = sum(tokens) if stage.kind == "ppo" else max(tokens, default=0.0)
    return Cost(
        stage.name,
        stage.seconds,
        (stage.seconds or 0.0) / whole,
        stage.steps,
        total or None,
        median(rates) if rates else None,
        max(_values(stage, "memory_bytes"), default=None),
    )


def _values(stage: Stage, name: str) -> tuple[float, ...]:
    series = stage.curves[name]
    return series.values if series else ()
