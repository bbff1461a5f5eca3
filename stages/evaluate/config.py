"""Settings of the evaluation stage. Torch-free."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.config import Source, Spec, Wants
from stages.core.config import ModelRef, RewardPart, Sampling, Sources, StageConfig


class Task(Spec):
    """Prompts whose answers a rule can grade."""

    name: str
    prompts: Annotated[Sources, Wants("prompt")]
    """Prompts with their `reference`."""
    rule: str
    """As in a reward: `exact`, `regex:PATTERN`, `json`, `number`, `length:TOKENS`, `world[:PART]`, or `file.py:function`."""


class Evaluate(StageConfig):
    """Compare a family of models on the same held-out text, prompts and seeds: one table."""

    makes: ClassVar[str] = "report"
    kind: Literal["evaluate"] = "evaluate"
    models: Annotated[tuple[ModelRef, ...], Field(min_length=1)]
    """The family, oldest first."""
    text: Annotated[tuple[Source, ...], Wants("text")] = ()
    """Held-out text for perplexity and bits per byte."""
    tasks: tuple[Task, ...] = ()
    """Graded prompts; answered greedily and by sampling, and both are reported."""
    rewards: tuple[RewardPart, ...] = ()
    """Scored on every sampled answer."""
    best_of: int = Field(4, ge=1)
    """Best-of-n of `baseline` by reward, as the yardstick for PPO; 1 leaves it out."""
    baseline: ModelRef | None = None
    """Model that win rate, KL and best-of-n are measured against; the model before the last if left out."""
    sampling: Sampling = Sampling()
    samples: int = Field(6, ge=0)
    """Prompts whose answers are shown side by side."""
    limit: int = Field(256, gt=0)
    """Prompts per task at most."""
