"""Settings of the SFT stage. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Context, Source, Wants
from stages.adapters.config import Adapter
from stages.core.config import (
    CHARACTERS_PER_TOKEN,
    TRAINED,
    ModelRef,
    Optimizer,
    Sources,
    StageConfig,
    Temperature,
    TokenizerRef,
    check_new_tokens_learn,
    some_of,
    steps_told,
)
from stages.core.workload import Player, Workload


class SFTOptimizer(Optimizer):
    learning_rate: float = Field(2e-5, gt=0, lt=1)


class SFT(StageConfig):
    """Train on chats through the model's chat template; only the assistant's words and the end of its turns are learned."""

    makes: ClassVar[str] = "causal-lm"
    is_shared: ClassVar[bool] = True
    kind: Literal["sft"] = "sft"
    model: ModelRef
    """Model to start from."""
    tokenizer: TokenizerRef | None = None
    """Tokenizer made from the model's own, with a chat template or a pad token that it lacks (a tokenizer stage with `existing`); its own if left out."""
    data: Annotated[Sources, Wants("chat")]
    """Chats in any supported format."""
    validation: Annotated[tuple[Source, ...], Wants("chat")] = ()
    """Held-out chats; a share of `data`, chosen by content hash, if left out."""
    held_out: float = Field(0.02, gt=0, lt=0.5)
    """Share of chats held out where `validation` is left out."""
    temperature: Temperature = 1.0
    """Evens out sources of different sizes: a source's share of the epoch becomes proportional to its share to the power of 1/temperature."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the data."""
    batch_tokens: int = Field(16_384, gt=0)
    """Tokens per optimizer step, over all processes; chats are packed without seeing one another."""
    max_tokens: int | None = Field(None, gt=1)
    """Longest chat; the model's context if left out. Longer chats lose whole turns from their end, never part of one."""
    learn: Literal["all", "last"] = "all"
    """Which assistant turns are learned."""
    optimizer: SFTOptimizer = SFTOptimizer()
    adapter: Adapter | None = None
    """Train an adapter instead of all weights."""
    samples: Annotated[int, Context()] = Field(4, ge=0)
    """Held-out chats whose last answer the model gives, always the same, at the start and after each quarter of the way: in `samples.jsonl` and for trackers."""

    def measures(self) -> tuple[str, ...]:
        return ("validation_loss", "shuffled_prompt_loss", "mask_share", *TRAINED)

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        return self.max_tokens or contexts.get("model")

    def few_steps(self, records: float, characters: float, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        tokens, row = characters * self.epochs / CHARACTERS_PER_TOKEN, self.room("data", contexts) or self.batch_tokens
        steps = tokens / row / max(1, self.batch_tokens // row)
        of = f"{records:,.0f} chats of {characters:,.0f} characters, {self.named('epochs')} and {self.named('batch_tokens')}"
        told = steps_told(steps, of, "lower batch_tokens or raise epochs", about=True)
        return ("batch_tokens", told) if told else None

    def brief(self, steps: int) -> Self:
        return self.model_copy(update={"data": some_of(self.data), "epochs": 100.0, "samples": 0})

    def workload(self) -> Workload:
        model = Player("model", "model", learns=True, adapter=self.adapter, updates=1.0)
        return Workload((model,), batch=self.batch_tokens, epochs=self.epochs, data=("data",), longest=self.max_tokens)

    @model_validator(mode="after")
    def _new_tokens_learn(self) -> Self:
        check_new_tokens_learn(self.tokenizer, self.adapter)
        return self
