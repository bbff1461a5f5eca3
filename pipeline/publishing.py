"""What a recipe says of publishing (`publish:`): settings alone, so that reading a recipe loads no client of the Hub."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from data.config import Spec

MAIN = "main"
Layout = Literal["repositories", "branches", "folders"]
PUBLISHABLE = ("causal-lm", "reward-model", "tokenizer")
"""Kinds of artifact that others load from a model repository."""
YOU = "your-account"
"""Stands for the owner where nobody is named and no token is asked."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"


class Publishing(Spec):
    """Where the models of a run go on the Hugging Face Hub once it is done. The token is the one that the Hub's own client holds."""

    owner: str | None = Field(None, pattern=NAME)
    """Account or organisation; whose token it is, if left out."""
    stages: tuple[str, ...] = ()
    """Stages to publish; every model, reward model and tokenizer, if left out."""
    name: str | None = Field(None, pattern=NAME)
    """What repositories are called, before the stage's name; the run's name, if left out."""
    layout: Literal["repositories", "branches", "folders"] = "repositories"
    """One repository a stage; or one for all, with a branch for each stage, or with a folder for each."""
    private: bool = True
    """Nobody else may see it. What is public needs a `license`."""
    license: str | None = None
    """Licence as the Hub names it, such as apache-2.0."""
    acknowledge: tuple[str, ...] = ()
    """Models from outside whose licences were read and allow this, where they are neither permissive nor the same as `license`."""
    revision: str = MAIN
    """Branch to publish on."""
    tag: str | None = None
    """Name for this state; a tag never moves."""
    collection: bool = False
    """Gather the repositories in a collection named like them."""
    pull_request: bool = False
    """Propose the change as a pull request instead of making it."""

    def address(self, owner: str, run: str, stage: str) -> tuple[str, str, str]:
        """Repository, branch and folder (empty: all of it) of a stage."""
        name = self.name or run
        if self.layout == "repositories":
            return f"{owner}/{name}-{stage}", self.revision, ""
        return (f"{owner}/{name}", stage, "") if self.layout == "branches" else (f"{owner}/{name}", self.revision, stage)

    def chosen(self, makes: Mapping[str, str]) -> list[str]:
        """The stages that are published, of all stages and what they make."""
        return [name for name, kind in makes.items() if (name in self.stages if self.stages else kind in PUBLISHABLE)]

    @property
    def manner(self) -> str:
        """In a sentence, what a run's plan says of it."""
        parts = [f"public, under {self.license}" if not self.private else "private"]
        parts += [f"tagged {self.tag}"] if self.tag else []
        parts += ["as pull requests"] if self.pull_request else []
        parts += ["in a collection"] if self.collection else []
        return f"published once the whole run is done: {', '.join(parts)}"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.private and self.license is None:
            raise ValueError("what is public needs a `license` (apache-2.0, mit, cc-by-4.0, …)")
        if self.layout == "branches" and self.revision != MAIN:
            raise ValueError("with layout `branches` each stage has a branch of its own name; leave `revision` out")
        if self.pull_request and self.tag:
            raise ValueError(
                "a pull request is not part of the repository yet, so that no tag can name it; leave `tag` or `pull_request` out"
            )
        if self.pull_request and self.layout == "branches":
            raise ValueError("a pull request goes to one branch; with `pull_request` the layout is `repositories` or `folders`")
        return self
