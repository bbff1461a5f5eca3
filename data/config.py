"""What a recipe says about data, and the base of every settings class. Imports no torch and no datasets: the orchestrator reads it too."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator


class Spec(BaseModel):
    """Frozen settings: unknown keys are errors. Every field's docstring becomes help, schema and documentation (`pipeline.descriptions`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def named(self, name: str) -> str:
        """A setting as a message names it, so that nobody looks for what was never written: `batch_tokens 16384 (the default)`."""
        return f"{name} {self.stated(name)}"

    def stated(self, name: str) -> str:
        """Its value alone."""
        return f"{getattr(self, name)}{'' if name in self.model_fields_set else ' (the default)'}"


@dataclass(frozen=True)
class Takes:
    """Marks a text field as a reference to a stage above, a local folder or `hub:owner/name`, and says which artifact kinds fit."""

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)


@dataclass(frozen=True)
class Context:
    """Marks a field that says how or whether, never what is computed: it bears no identity, so changing it reruns nothing."""


@dataclass(frozen=True)
class Wants:
    """Marks data with the record that the stage makes of each row, so that a check before the start can try it."""

    record: Literal["text", "chat", "preference", "prompt"]


Format = Literal[
    "auto",
    "text",
    "alpaca",
    "sharegpt",
    "messages",
    "prompt-completion",
    "question-answer",
    "preference",
    "ranked",
    "prompt",
]


def _format(name: str) -> str:
    from difflib import get_close_matches

    from data.code import CODE

    known = get_args(Format)
    if name in known or CODE.match(name):
        return name
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"no format '{name}' (there are {', '.join(known)}, and file.py:function){hint}")


_FORMAT_SCHEMA = {"anyOf": [{"enum": list(get_args(Format))}, {"type": "string", "pattern": r"\.py:[A-Za-z_]\w*$"}]}


class Source(Spec):
    """Where rows come from and how they are read."""

    path: str
    """File, glob or folder beside the recipe; `hub:owner/name[@revision][:config][:split]`; or a path inside `stage`'s artifact."""
    stage: Annotated[str | None, Takes("dataset")] = None
    """A data stage above, in whose artifact `path` lies."""
    format: Annotated[str, AfterValidator(_format), WithJsonSchema(_FORMAT_SCHEMA)] = "auto"
    """How a row is read: `auto` looks at the columns and says what it decided; text, alpaca, sharegpt, messages, prompt-completion, question-answer,
    preference, ranked or prompt; or `file.py:function`, which makes of a row one in a format that `auto` knows."""
    columns: dict[str, str] = {}
    """Our field name to theirs, where theirs differs; dots reach into nested fields (`messages: conversation.turns`)."""
    weight: float = Field(1.0, gt=0)
    """Share of this source in the mixture, relative to the other sources' weights times their sizes; 1 takes every row once an epoch."""
    limit: int | None = Field(None, gt=0)
    """Take at most this many rows."""
    on_bad_rows: Literal["error", "skip"] = "error"
    """A bad row stops the run before anything starts, or is left out and counted."""

    @model_validator(mode="after")
    def _columns_are_spelled_right(self) -> Self:
        """Any name may stand in `columns`, because rules read columns of their own; one that nearly is one of ours is a slip."""
        if self.columns:
            from difflib import get_close_matches

            from data.columns import ALIASES

            for name in self.columns:
                known = {*ALIASES, *(alias for aliases in ALIASES.values() for alias in aliases)}
                if name not in known and (near := get_close_matches(name, ALIASES, n=1, cutoff=0.8)):
                    raise ValueError(f"no field '{name}' is read; did you mean '{near[0]}'? (columns: our name to theirs)")
        return self
