"""Settings of the sampling stage. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Wants
from stages.core.config import ModelRef, Rewarded, RewardPart, Sampling, Sources
from stages.core.workload import Player, Workload


class Sample(Rewarded):
    """Answers of a model, chosen by reward, as chats for SFT: best-of-n and rejection sampling (RAFT, Dong et al. 2023; Llama 2, Touvron et al. 2023)."""

    makes: ClassVar[str] = "dataset"
    kind: Literal["sample"] = "sample"
    model: ModelRef
    """Model that answers."""
    prompts: Annotated[Sources, Wants("prompt")]
    """Prompts to answer; a `reference` column is handed to rules."""
    rewards: tuple[RewardPart, ...] = Field(min_length=1)
    """Weighted sum of reward models, rules and servers' scores, as in PPO."""
    samples: int = Field(8, gt=0)
    """Answers drawn for each prompt."""
    keep: int = Field(1, gt=0)
    """Different answers kept of each prompt, best reward first: 1 of `samples` is best-of-n."""
    least: float | None = None
    """Reward that an answer must reach to be kept (rejection sampling); a prompt without one is left out. No bound if left out."""
    unfinished: bool = False
    """Keep answers that were cut at the limit too: SFT would learn from them to stop there."""
    sampling: Sampling = Sampling()
    """How answers are drawn."""

    def leaves(self) -> tuple[str, ...]:
        return ("chats.jsonl",)

    def measures(self) -> tuple[str, ...]:
        return ("answers", "kept", "prompts_kept", "reward", "reward_kept", "eos_rate", "kl_bound")

    def workload(self) -> Workload:
        policy = Player("model", "model", writes=True)
        answer = self.sampling.max_new_tokens
        return Workload((policy, *self.judges()), "answers", epochs=self.samples, data=("prompts",), answer=answer)

    def too_long(self, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        return self.sampling.too_long(self.read_whole(contexts))

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        return self.sampling.room(self.read_whole(contexts)) if field in ("prompts", "validation") else None

    @model_validator(mode="after")
    def _no_more_than_drawn(self) -> Self:
        if self.keep > self.samples:
            raise ValueError(f"keep {self.keep} is more than {self.named('samples')}")
        return self
