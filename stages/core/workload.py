"""What a stage computes, as far as its settings tell: enough for a plan to say what it needs, and whether processes can share it. Torch-free, and free
of numbers that a model has."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from stages.adapters.config import AdapterSpec

AUTO_TOKENS = {"cpu": 4_096, "cuda": 32_768}
"""Tokens of a forward pass where the recipe leaves it open. On a CPU larger passes leave the caches and are slower."""


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
    asked: int | None = None
    """Held-out prompts that an evaluation on the way answers at most, for answers."""
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

    def rows_in_step(self, context: int) -> int:
        """Rows of an optimizer step (answers of a rollout) over all processes; `context` is the length of a packed row in tokens."""
        return max(1, self.batch // context) if self.rows == "packed" else self.batch


@dataclass(frozen=True)
class Unshared:
    """Why so many processes cannot share a step, and the nearest numbers that can."""

    field: str
    """Of the stage's settings: what the step is made of."""
    why: str
    fewer: int
    """Processes that can share it as it is."""
    larger: int
    """Of the field, with which all of them can."""

    def __str__(self) -> str:
        return f"{self.why}: take {self.fewer}, or set {self.field} to {self.larger}"


def unshared(work: Workload, processes: int, context: int | None) -> list[Unshared]:
    """Everything that keeps so many processes from sharing a stage; nothing where they can.

    Packed rows and pairs are dealt out evenly, because each process cuts its share into equal passes. Of a rollout and of an evaluation each process
    needs one answer at least; shares may differ, and a minibatch may leave a process without any. `context` is as in `Workload.rows_in_step`; None if
    it is not known, and then nothing is told of packed rows.
    """
    return list(_short(work, processes) if work.rows == "answers" else _uneven(work, processes, context))


def _uneven(work: Workload, processes: int, context: int | None) -> Iterator[Unshared]:
    if work.rows == "packed" and context is None:
        return
    of, field, each = (f"rows of {context} tokens", "batch_tokens", context or 1) if work.rows == "packed" else ("pairs", "batch_pairs", 1)
    rows = work.rows_in_step(context or 1)
    if rows % processes:
        why = f"a step of {rows} {of} cannot be shared by {processes} processes evenly"
        yield Unshared(field, why, divisor(rows, processes), -(-rows // processes) * processes * each)


def _short(work: Workload, processes: int) -> Iterator[Unshared]:
    whole = -(-processes // work.minibatches) * work.minibatches
    if work.batch < processes:
        yield Unshared("batch", f"a rollout of {work.batch} answers is too few for {processes} processes", work.batch, whole)
    if work.asked is not None and work.asked < processes:
        why = f"an evaluation of {work.asked} prompt{'s' if work.asked > 1 else ''} is too few for {processes} processes"
        yield Unshared("evaluation_prompts", why, work.asked, processes)


def divisor(rows: int, at_most: int) -> int:
    """The largest divisor of `rows` that is no larger than `at_most` (1 at least)."""
    return max(d for d in range(1, max(1, min(rows, at_most)) + 1) if rows % d == 0)
