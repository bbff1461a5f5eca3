"""What passes between a terminal and the process that holds the models (`python -m stages.core.talk`): JSON, a line each. Torch-free.

opening  ->   the models, once
ask      ->   one prompt for one model      <-  piece, piece, ..., said | wrong
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.config import Spec
from stages.contract import FAILED, Hardware


class Opening(Spec):
    """Whom one can talk to, and who judges."""

    models: dict[str, Path]
    """Folders of causal models by the name of their stage."""
    judges: dict[str, Path] = {}
    """Folders of reward models."""
    hardware: Hardware = Hardware()
    trusted: tuple[Path, ...] = ()
    """Folders whose models' own code may run, as the recipe says."""


class Drawing(Spec):
    """How an answer is drawn."""

    temperature: float = Field(1.0, ge=0, le=10)
    """Divides the logits; 0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draws from the likeliest tokens that together have this probability."""
    top_k: int = Field(0, ge=0)
    """Draws from so many of the likeliest tokens; 0 from all."""
    max_new_tokens: int = Field(256, gt=0)
    """An answer is cut after so many tokens."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The same seed draws the same answer to the same prompt."""


class Ask(Spec):
    """One prompt for one model."""

    model: str
    messages: list[dict[str, Any]]
    drawing: Drawing = Drawing()


class Piece(Spec):
    """Some more of an answer."""

    event: Literal["piece"] = "piece"
    text: str


class Said(Spec):
    """A whole answer and what it is worth."""

    event: Literal["said"] = "said"
    model: str
    text: str
    tokens: int
    """The one that ended it included."""
    ended: Literal["by itself", "at the limit", "stopped"]
    logprob: float
    """Natural logarithm of the answer's probability under its model at temperature 1, in nats: a sum over its tokens."""
    rewards: dict[str, float] = {}
    """By judge, standardised as in PPO."""
    forgotten: int = 0
    """Oldest messages that no longer fit into the model's context."""


class Wrong(Spec):
    """There is no answer, and why."""

    event: Literal["wrong"] = "wrong"
    reason: str
    code: int = FAILED
    """As of a command: `WRONG_INPUT` if what was asked is wrong, as a message that does not fit."""
