"""What a stage computes, as far as its settings tell: enough for a plan to say what it needs. Torch-free, and free of numbers that a model has."""

from dataclasses import dataclass, field
from typing import Literal

from stages.adapters.config import AdapterSpec


@dataclass(frozen=True)
class Player:
    """A model that a stage holds, and what it does with each token of a row."""

    name: str
    field: str
    """Of the settings: the model that it starts as."""
    head: Literal["words", "score", "value"] = "words"
    """What it gives: logits, a score, or values."""
    learns: bool = False
    adapter: AdapterSpec | None = None
    """Trained instead of all weights."""
    on: str | None = None
    """The player whose weights it shares; it then has only what trains for itself."""
    reads: float = 0.0
    """Forward passes over each token without learning."""
    updates: float = 0.0
    """Forward and backward passes over each token."""
    writes: bool = False
    """Whether it draws the answers."""
    trunk: bool = False
    """A head of two layers on the hidden states of the player it lies on, and nothing else (`shared-trunk`)."""


@dataclass(frozen=True)
class Workload:
    """The rows of a stage, and its players."""

    players: tuple[Player, ...]
    rows: Literal["packed", "pairs", "answers"] = "packed"
    """Packed documents of the context's length; pairs of conversations; or prompts with their answers."""
    batch: int = 1
    """Of an optimizer step over all processes: tokens of packed rows, else pairs or answers; of a rollout for answers."""
    minibatches: int = 1
    """Optimizer steps that share a batch."""
    tokens: int | None = None
    """Tokens to train on, where the settings say so."""
    epochs: float | None = None
    """Passes over the data, where the settings say that instead."""
    data: tuple[str, ...] = field(default=())
    """Fields of the data that are passed over."""
    steps: int | None = None
    """Rollouts."""
    longest: int | None = None
    """Tokens of a row at most; the model's context if None."""
    answer: int = 0
    """Tokens of an answer at most."""
    engine_memory: float | None = None
    """Share of a device that another engine takes for drawing answers."""
    apart: bool = False
    """Whether the players are held one after the other."""
    new: bool = False
    """Whether the first player's weights are made rather than loaded."""
    copies: int = 0
    """Further copies of the policy's weights that are kept in main memory."""
