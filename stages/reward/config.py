"""Settings of the reward-model stage. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from data.config import Source, Wants
from data.extent import Extent
from stages.adapters.config import Adapter
from stages.core.config import TRAINED, ModelRef, Optimizer, Sources, StageConfig, some_of, steps_told
from stages.core.workload import Player, Workload

JUDGED = (
    *("accuracy", "accuracy_low", "accuracy_high", "held_out_loss", "calibration_error", "reward_mean", "reward_std", "length_correlation"),
    *("oracle_accuracy", "utility_agreement", "utility_correlation", "utility_slope", "length_baseline", "bag_of_words"),
)
"""What is measured on held-out pairs; `accuracy_GROUP` and `accuracy_source_NAME` come from the data."""


class RewardOptimizer(Optimizer):
    learning_rate: float = Field(1e-5, gt=0, lt=1)


class Reward(StageConfig):
    """Train a model that scores answers, from pairs of a chosen and a rejected one (Bradley & Terry 1952)."""

    version: ClassVar[int] = 2
    makes: ClassVar[str] = "reward-model"
    is_shared: ClassVar[bool] = True
    kind: Literal["reward"] = "reward"
    model: ModelRef
    """Model to start from, usually the SFT model."""
    data: Annotated[Sources, Wants("preference")]
    """Preference pairs that share their prompt; of a ranked list, all pairs, which together count as one."""
    validation: Annotated[tuple[Source, ...], Wants("preference")] = ()
    """Held-out pairs; a share of `data`, chosen by the prompt's content hash, if left out."""
    probes: Annotated[tuple[Source, ...], Wants("preference")] = ()
    """Pairs from outside of what `data` covers, judged at the end and reported apart (`probe_...`); they change nothing else."""
    held_out: float = Field(0.05, gt=0, lt=0.5)
    """Share of pairs held out where `validation` is left out."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs; a second pass usually overfits."""
    batch_pairs: int = Field(64, gt=0)
    """Pairs per optimizer step, over all processes."""
    max_tokens: int | None = Field(None, gt=1)
    """Longest prompt and answer; the model's context if left out. Longer prompts lose their oldest turns; a pair that still does not fit is left out and counted."""
    centre: float = Field(0.01, ge=0)
    """Coefficient of the penalty on the sum of both rewards, which keeps their mean near zero (Eisenstein et al. 2023) and makes them smaller: by about a fifth where utilities vary by 2. PPO divides by their deviation, which undoes it."""
    margin: bool = False
    """Ask for a difference of rewards of at least the pairs' `margin` column, or the difference of a ranked list's scores (Touvron et al. 2023)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels known to be wrong: the loss expects it, and rewards stay finite (Mitchell 2023)."""
    optimizer: RewardOptimizer = RewardOptimizer()
    """How the model learns."""
    adapter: Adapter | None = None
    """Train an adapter and the score head instead of all weights."""

    def measures(self) -> tuple[str, ...]:
        return (*JUDGED, "accuracy_*", "probe_accuracy", "probe_lead", "probe_deviation", *TRAINED)

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        return self.max_tokens or contexts.get("model")

    def lacking(self, field: str, extent: Extent) -> str | None:
        if not self.margin or field != "data" or not extent.records:
            return None
        if extent.lowest_margin < 0:
            return f"margin: found {extent.lowest_margin:g}, wanted at least 0: the chosen answer is the better one, so swap the two or leave margins out"
        if not extent.margins:
            return "margin: true, but no pair has a `margin` column (nor a ranked list with scores); leave it out or add the column"
        return None

    def few_steps(self, records: float, characters: float, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        steps = self.epochs * records / self.batch_pairs
        of = f"{records:,.0f} pairs to learn from, {self.named('epochs')} and {self.named('batch_pairs')}"
        told = steps_told(steps, of, "lower batch_pairs or raise epochs")
        return ("batch_pairs", told) if told else None

    def brief(self, steps: int) -> Self:
        return self.model_copy(update={"data": some_of(self.data), "epochs": 100.0})

    def workload(self) -> Workload:
        model = Player("model", "model", "score", learns=True, adapter=self.adapter, updates=1.0)
        return Workload((model,), "pairs", batch=self.batch_pairs, epochs=self.epochs, data=("data",), longest=self.max_tokens)
