"""Settings of the tokenizer stage. Torch-free."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Source, Takes, Wants
from stages.core.config import StageConfig


class Tokenizer(StageConfig):
    """Train a byte-level BPE tokenizer with its own pad token, an end-of-turn token and a chat template; or take an existing one."""

    makes: ClassVar[str] = "tokenizer"
    kind: Literal["tokenizer"] = "tokenizer"
    data: Annotated[tuple[Source, ...], Wants("text")] = ()
    """Text to train on: plain text or chats. Not needed with `existing`."""
    vocab_size: int = Field(4096, ge=300)
    """Tokens in all: special ones and the 256 bytes included."""
    existing: Annotated[str | None, Takes("tokenizer", "causal-lm")] = None
    """Folder (`./name`) or `hub:owner/name` of a tokenizer to take instead of training one; pad token and chat template are added where missing."""
    template: Literal["turns", "chatml"] = "turns"
    """Chat template of a new tokenizer, with generation markers. `turns` spends one special token on each speaker; `chatml` is the ChatML form."""
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of documents, chosen by content hash, kept from training to measure bytes per token."""

    def measures(self) -> tuple[str, ...]:
        return ("vocab_size", "bytes_per_token")

    def vocabulary(self, given: int | None) -> int | None:
        return given if self.existing is not None else self.vocab_size

    @model_validator(mode="after")
    def _has_a_beginning(self) -> Self:
        if not self.data and self.existing is None:
            raise ValueError("a new tokenizer needs `data` to train on, or take an `existing` one")
        return self
