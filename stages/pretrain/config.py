"""Settings of the pretraining stage. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Context, Source, Wants
from stages.adapters.config import Adapter
from stages.core.config import (
    TRAINED,
    Llama,
    ModelRef,
    Optimizer,
    Sources,
    StageConfig,
    Temperature,
    TokenizerRef,
    check_new_tokens_learn,
    steps_told,
)
from stages.core.workload import Player, Workload


class PretrainOptimizer(Optimizer):
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)


class Pretrain(StageConfig):
    """Train a LLaMA-style causal model on text, from scratch or from an existing model. Packed documents never see one another."""

    makes: ClassVar[str] = "causal-lm"
    is_shared: ClassVar[bool] = True
    kind: Literal["pretrain"] = "pretrain"
    model: Annotated[Llama | ModelRef, Field(union_mode="left_to_right")] = Llama()
    """Shape of a new model, or the model to continue from."""
    tokenizer: TokenizerRef | None = None
    """Tokenizer of a new model. A continued model keeps its own, or takes one made from it that has more tokens (a tokenizer stage with `existing`)."""
    data: Annotated[Sources, Wants("text")]
    """Text to learn; documents end with EOS."""
    validation: Annotated[tuple[Source, ...], Wants("text")] = ()
    """Held-out text; a share of `data`, chosen by content hash, if left out."""
    held_out: float = Field(0.02, gt=0, lt=0.5)
    """Share of documents held out where `validation` is left out."""
    temperature: Temperature = 1.0
    """Evens out sources of different sizes: a source's share of the epoch becomes proportional to its share to the power of 1/temperature."""
    tokens: int = Field(gt=0)
    """Tokens to train on, repeating the data as often as needed."""
    batch_tokens: int = Field(16_384, gt=0)
    """Tokens per optimizer step, over all processes."""
    optimizer: PretrainOptimizer = PretrainOptimizer()
    adapter: Adapter | None = None
    """Train an adapter instead of all weights."""
    samples: Annotated[int, Context()] = Field(4, ge=0)
    """Held-out texts that the model goes on with, always the same, at the start and after each quarter of the way: in `samples.jsonl` and for trackers."""

    def measures(self) -> tuple[str, ...]:
        return ("validation_loss", "perplexity", "bits_per_byte", "perplexity_floor", "bigram_perplexity", *TRAINED)

    def context_left(self, contexts: Mapping[str, int | None]) -> int | None:
        return self.model.context if isinstance(self.model, Llama) else super().context_left(contexts)

    def few_steps(self, records: float, characters: float, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        context = self.context_left(contexts) or self.batch_tokens
        steps = self.tokens // context // max(1, self.batch_tokens // context)
        told = steps_told(steps, f"{self.named('tokens')} and {self.named('batch_tokens')}", "raise tokens or lower batch_tokens")
        return ("tokens", told) if told else None

    def brief(self, steps: int) -> Self:
        return self.model_copy(update={"tokens": steps * self.batch_tokens, "samples": 0})

    def workload(self) -> Workload:
        model = Player("model", "model", learns=True, adapter=self.adapter, updates=1.0)
        return Workload((model,), batch=self.batch_tokens, tokens=self.tokens, new=isinstance(self.model, Llama))

    @model_validator(mode="after")
    def _tokenizer_fits(self) -> Self:
        if isinstance(self.model, Llama) and self.tokenizer is None:
            raise ValueError("a new model needs `tokenizer`")
        if isinstance(self.model, str):
            check_new_tokens_learn(self.tokenizer, self.adapter)
        return self
