"""Settings of the embedded world. Torch-free."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.core.config import StageConfig


class World(StageConfig):
    """Generate the embedded default data: a small world of people and facts for every later stage, with known entropy and known truth."""

    version: ClassVar[int] = 2
    makes: ClassVar[str] = "dataset"
    kind: Literal["world"] = "world"
    people: int | None = Field(None, gt=1)
    """People in the register, 64 at most; 32, as in the demo, if left out."""
    documents: int | None = Field(None, gt=0)
    """Stories to pretrain on (`stories.jsonl`); 20,000 if left out."""
    chats: int | None = Field(None, gt=0)
    """Chats for SFT (`chats.jsonl`); 3,000 if left out."""
    pairs: int | None = Field(None, gt=0)
    """Preference pairs for a reward model (`pairs.jsonl`); 32,000 if left out."""
    prompts: int | None = Field(None, gt=0)
    """Prompts for PPO (`prompts.jsonl`); 1,000 if left out."""

    def leaves(self) -> tuple[str, ...]:
        return (
            "stories.jsonl",
            "stories-heldout.jsonl",
            "chats.jsonl",
            "chats-heldout.jsonl",
            "pairs.jsonl",
            "pairs-heldout.jsonl",
            "pairs-unasked.jsonl",
            "prompts.jsonl",
            "exam.jsonl",
        )

    def measures(self) -> tuple[str, ...]:
        return ("rows",)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sizes := self.sizes():
            from data.world import Spec  # only here: loading the world costs every command 0.02 s

            Spec(**sizes)
        return self

    def sizes(self) -> dict[str, int]:
        """The sizes that are given."""
        return self.model_dump(include={"people", "documents", "chats", "pairs", "prompts"}, exclude_none=True)
