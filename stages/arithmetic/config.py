"""Settings of the arithmetic data. Torch-free."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.core.config import StageConfig


class Arithmetic(StageConfig):
    """Generate word problems on small sums with checkable answers: equations to pretrain on, chats that err in a known share, prompts and an exam."""

    makes: ClassVar[str] = "dataset"
    kind: Literal["arithmetic"] = "arithmetic"
    smallest: int = Field(0, ge=0)
    """Numbers go from this..."""
    largest: int = Field(12, gt=1)
    """... to this."""
    carry: bool = True
    """Include sums in which a column of digits carries to the next one or borrows from it; without them a very small model that reads digits learns to add, and not only the sums that it saw."""
    mistakes: float = Field(0.4, ge=0, lt=1)
    """Share of the chats whose result is wrong, so that a model that learns them well is wrong as often."""
    new: float = Field(0.1, gt=0, lt=1)
    """Share of the sums that only the exam asks about (its group `new`)."""
    documents: int = Field(4_000, gt=0)
    """Texts of eight right equations each."""
    chats: int = Field(3_000, gt=0)
    """Word problems with their answers, for SFT."""
    prompts: int = Field(2_000, gt=0)
    """Word problems with their results as references, for PPO."""
    exam: int = Field(480, gt=1)
    """Word problems to measure on, every other one on a new sum."""

    def leaves(self) -> tuple[str, ...]:
        return ("text.jsonl", "chats.jsonl", "prompts.jsonl", "exam.jsonl")

    def measures(self) -> tuple[str, ...]:
        return ("rows",)

    @model_validator(mode="after")
    def _has_numbers(self) -> Self:
        if self.smallest >= self.largest:
            raise ValueError(f"smallest {self.smallest} leaves no numbers below largest {self.largest}")
        return self
