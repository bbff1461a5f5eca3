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
    """People in the register; the demo's number if left out, as for all sizes below."""
    documents: int | None = Field(None, gt=0)
    """Stories to pretrain on."""
    chats: int | None = Field(None, gt=0)
    """Chats for SFT."""
    pairs: int | None = Field(None, gt=0)
    """Preference pairs."""
    prompts: int | None = Field(None, gt=0)
    """Prompts for PPO."""

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
