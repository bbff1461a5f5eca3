"""Settings of the evaluation stage. Torch-free."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Source, Spec, Wants
from data.extent import Extent
from stages.core.config import ModelRef, Rewarded, RewardPart, RuleName, Sampling, Sources, free_name, references_told
from stages.core.workload import Player, Workload


def called(references: Sequence[str]) -> list[str]:
    """Names of models in the report: that of a stage, or the last part of a folder's or a repository's; numbered where it is taken."""
    names: list[str] = []
    for reference in references:
        plain = PurePath(reference.removeprefix("hub:").partition("@")[0]).name
        names.append(free_name(plain, len(names) + 1, names))
    return names


class Task(Spec):
    """Prompts whose answers a rule can grade."""

    name: str
    """What it is called in the report."""
    prompts: Annotated[Sources, Wants("prompt")]
    """Prompts with their `reference`."""
    rule: RuleName
    """As in a reward: `exact`, `regex:PATTERN`, `json`, `number`, `length:WORDS`, `language:CODE`, `repetition[:WORDS]`, `world[:PART]`, or `file.py:function`. Of a name that the report has for every answer (`length`, `kl`, `reward`) its verdict is told as `rule_NAME`."""


class Evaluate(Rewarded):
    """Compare a family of models on the same held-out text, prompts and seeds: one table."""

    version: ClassVar[int] = 3
    makes: ClassVar[str] = "report"
    refuses_long: ClassVar[bool] = True
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
    """Best-of-n of `baseline` by reward, as the yardstick for PPO; 1 leaves it out. With n large enough (8: 1.2 nats, 16: 1.8) the report says how far each model lies above the curve of all n at its own KL."""
    baseline: ModelRef | None = None
    """Model that win rate, KL and best-of-n are measured against; the model before the last if left out."""
    answers: int = Field(1, ge=1)
    """Sampled answers of each model per prompt; what is told of sampled answers, KL among it, is their mean, and more of them narrow the intervals."""
    sampling: Sampling = Sampling()
    """How sampled answers are drawn, and how long any answer may be."""
    samples: int = Field(6, ge=0)
    """Prompts whose answers are shown side by side."""
    limit: int = Field(256, gt=0)
    """Prompts per task at most."""

    def workload(self) -> Workload:
        family = tuple(
            Player(name.rpartition("/")[2], f"models.{n}", reads=1.0, writes=bool(self.tasks)) for n, name in enumerate(self.models)
        )
        answer = self.sampling.max_new_tokens if self.tasks else 0
        return Workload((*family, *self.judges()), "answers", apart=True, answer=answer)

    def measures(self) -> tuple[str, ...]:
        """`model.quantity`, and `model.task.quantity` where there are several tasks: what a rule tells, and of which groups, is not known before."""
        names = called([*self.models, *([self.baseline] if self.baseline else [])])
        best = (f"best_of_{self.best_of}.*",) if self.best_of > 1 and self.rewards else ()
        return (*(f"{name}.*" for name in names), *best)

    def too_long(self, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        return self.sampling.too_long(self._answering(contexts) if self.tasks else {})

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        return self.sampling.room(self._answering(contexts)) if field.startswith("tasks.") else None

    def lacking(self, field: str, extent: Extent) -> str | None:
        return references_told([task.rule for n, task in enumerate(self.tasks) if field == f"tasks.{n}.prompts"], extent)

    @staticmethod
    def _answering(contexts: Mapping[str, int | None]) -> dict[str, int | None]:
        """Contexts of the models that answer."""
        return {name: context for name, context in contexts.items() if name == "baseline" or name.startswith("models.")}

    @model_validator(mode="after")
    def _something_to_measure(self) -> Self:
        names = [task.name for task in self.tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tasks are called '{twice}': one result would hide the other")
        if self.rewards and not self.tasks:
            raise ValueError("rewards score the answers to `tasks`, and there are none")
        if not self.tasks and not self.text:
            raise ValueError("nothing to measure: give `text`, `tasks` or both")
        return self
