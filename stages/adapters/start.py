"""How a training stage begins and ends with adapters: resolved by ourselves, always, because loaders silently train on the base otherwise.

model = load_start(path, own, "CAUSAL_LM", load_base)      the base, and earlier adapters that stay
start = begin(model, own, "CAUSAL_LM", job=job, ...)       the stage's adapter on top, or the earlier one again
... train start.model ...
save_artifact(start.model, ..., kept=start.kept(job))      merged, or the adapters alone
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.adapters.bases import Base, adapters_in, base_named, base_of, folders_of, is_repository
from stages.adapters.building import Task, adapter_name, add_adapter, described
from stages.adapters.combinations import Carried, Situation, complaint
from stages.adapters.config import AdapterSpec, QLora
from stages.adapters.files import earlier_settings, take_up, with_adapters
from stages.adapters.switching import frozen_twin
from stages.contract import Adapters, Input, Job, StageError
from stages.core.parity import check_start, probe, stated_probe

TWIN = "before_training"
"""Name of the frozen copy of an adapter that goes on, where a stage needs to know what it was."""


@dataclass(frozen=True)
class Kept:
    """Adapters that an artifact is to hold apart from their base."""

    names: list[str]
    settings: list[AdapterSpec]
    base: Base


@dataclass
class Start:
    """A model about to be trained, and what is known of where it comes from."""

    model: Any
    own: AdapterSpec | None = None
    name: str | None = None
    """Of the adapter in training."""
    earlier: list[str] = field(default_factory=list)
    settings: list[AdapterSpec] = field(default_factory=list)
    """Of the earlier adapters."""
    base: Base | None = None
    distance: float | None = None
    """From the model that the stage declares as its start, before the first step; None for a new model."""
    goes_on: bool = False
    """Whether the adapter is an earlier stage's."""

    @property
    def metrics(self) -> dict[str, float]:
        return {} if self.distance is None else {"start_distance": self.distance}

    @property
    def notes(self) -> list[str]:
        return [described(self.model, self.own)] if self.own is not None else []

    @property
    def kept(self) -> Kept | None:
        """What the artifact holds apart from its base; None where all becomes one model."""
        if self.own is None or self.own.hand_over == "merge":
            return None
        if self.name is None or self.base is None:
            raise StageError("adapter.hand_over: the base is a new model that no folder holds; say merge")
        return Kept([*self.earlier, self.name], [*self.settings, self.own], self.base)

    def twin(self) -> str | None:
        """A frozen copy of an adapter that goes on, as it was; None where the adapter is new, so that switching it off does as well."""
        return frozen_twin(self.model, str(self.name), TWIN) if self.goes_on else None


def load_start(path: Path, own: AdapterSpec | None, task: Task, load_base: Callable[[Path], Any]) -> Any:
    """The model that a stage trains `own` on, or all of: a whole model, or a base with the earlier adapters that stay, active and frozen.

    Raises:
        DataError: the base of the earlier adapters is missing, or is another one.
    """
    found = adapters_in(path)
    if found is None:
        return load_base(path)
    folders = folders_of(path, found)
    if _policy(found) == "continue":
        del folders[found.names[-1]]
    model = load_base(base_of(path, found).path)
    return with_adapters(model, folders, task) if folders else model


def begin(model: Any, own: AdapterSpec | None, task: Task, *, job: Job, tokenizer: Any) -> Start:
    """Put the stage's adapter onto a model from `load_start`, and measure that it is where the stage before ended.

    Raises:
        StageError: the model is another one than the stage before left, or its adapters cannot be trained on in this way.
    """
    source = job.inputs.get("model")
    found = adapters_in(source.path) if source else None
    start = Start(model, own)
    if source is not None and found is not None:
        _allowed(job, own, found)
        start.settings, start.earlier = earlier_settings(found), list(found.names)
        start.base = _renamed(base_of(source.path, found), job)
        if _policy(found) == "continue":
            start.name, start.goes_on = start.earlier.pop(), True
            start.settings.pop()
    elif source is not None:
        start.base = base_named(source.path, source.reference, job.artifact)
    stated = (stated_probe(source.path) or probe(model)) if source else None
    if own is not None:
        _put_on(start, own, task, job, tokenizer, source, found)
    if stated is not None and source is not None:
        rounded = isinstance(own, QLora) and not any(isinstance(one, QLora) for one in (earlier_settings(found) if found else []))
        equal = not rounded and (own is None or own.starts_neutral or start.goes_on)
        start.distance = check_start(stated, start.model, source.reference, must_be_equal=equal)
    return start


def _put_on(start: Start, own: AdapterSpec, task: Task, job: Job, tokenizer: Any, source: Input | None, found: Adapters | None) -> None:
    if start.goes_on and source is not None and found is not None:
        folder = folders_of(source.path, found)[str(start.name)]
        start.model = take_up(start.model, own, task, str(start.name), folder, seed=job.seed)
        return
    start.name = adapter_name(job.stage)
    if start.name in start.earlier:
        start.name = f"{start.name}_{len(start.earlier)}"
    start.model = add_adapter(start.model, own, task, seed=job.seed, name=start.name, tokenizer=tokenizer)


def _policy(found: Adapters) -> str:
    return str(found.settings[-1].get("hand_over"))


def _allowed(job: Job, own: AdapterSpec | None, found: Adapters) -> None:
    """The plan's own table once more, for a stage that was started without one."""
    task: Any = job.kind if job.kind in ("pretrain", "sft", "reward", "ppo") else "sft"
    situation = Situation(task, own, Carried(tuple(earlier_settings(found))), checkpointing=job.hardware.gradient_checkpointing)
    if (told := complaint(situation)) is not None:
        raise StageError(": ".join(told))


def _renamed(base: Base, job: Job) -> Base:
    """The same base, as this stage's artifact names it."""
    if base.revision is not None or is_repository(base.name):
        return base
    return base_named(base.path, "", job.artifact)
