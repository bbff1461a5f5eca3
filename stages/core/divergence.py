"""What a stage does about a loss or a gradient that is not finite, and what it did: `divergence.json` in its folder.

The events bear the step at which they hold, not their order in time: a stage that is killed and resumed meets the same batches again, leaves out
the same ones and lowers its learning rate at the same step, so it ends with the same bits.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.contract import Job, StageError
from stages.core import checkpoints
from stages.core.files import write_json

RECORD = "divergence.json"
WINDOW = 128
"""Losses that a spike is measured against."""
FEWEST = 16
"""With fewer losses nothing is called a spike."""


class RolledBack(Exception):  # noqa: N818 - not an error
    """The stage goes on from an earlier checkpoint, in a new process, with a lower learning rate. Exit code `contract.AGAIN`."""


class Trouble:
    """The divergences of one stage. Every process has one; the first writes."""

    def __init__(self, job: Job, *, first: bool = True) -> None:
        self._path, self._settings, self._first = job.folder / RECORD, job.divergence, first
        self._checkpoints = job.folder / "checkpoints"
        self._attempt = job.folder / "attempts" / str(job.attempt)
        self.events = _read(self._path)

    def factor(self, step: int) -> float:
        """What roll backs make of the learning rate of the step after `step` earlier ones."""
        return math.prod(float(event["factor"]) for event in self.events if event["action"] == "rollback" and event["after"] <= step)

    def keep(self, name: str, rows: list[dict[str, Any]]) -> str:
        """Write rows down beside the attempt's log; where, as a user sees it."""
        if self._first:
            self._attempt.mkdir(parents=True, exist_ok=True)
            write_json(self._attempt / name, rows)
        return f"attempts/{self._attempt.name}/{name}"

    def meet(self, step: int, what: str, rows: str, *, part: int = 0, may_skip: bool = True) -> None:
        """Step `step` (counted from 1), or a part of it, is not finite; every process calls this. Returns where its batch is to be skipped.

        Raises:
            StageError: the stage stops here. RolledBack: it goes on from its last checkpoint.
        """
        last = checkpoints.latest(self._checkpoints)
        told = f"{what} at step {step}, in {rows}"
        good = f"the last good checkpoint is {last.name}" if last else "there is no checkpoint yet"
        action, done = self._settings.action, [event for event in self.events if event["action"] != "stop"]
        if action == "skip" and any((event["action"], event["step"], event["part"]) == ("skip", step, part) for event in done):
            return  # met again after a resume
        if action == "stop":
            raise StageError(f"{told}; {good}. Lower the learning rate or the clip, or set divergence.action to skip or rollback")
        if len(done) >= self._settings.limit:
            raise StageError(f"{told}; {good}. divergence.limit ({self._settings.limit}) is reached: {_summary(done)}")
        if action == "skip" and not may_skip:
            raise StageError(
                f"{told}; {good}. DeepSpeed has stepped already, so the batch cannot be skipped: set divergence.action to rollback"
            )
        after = checkpoints.step_of(last) if last else 0
        event: dict[str, Any] = {"step": step, "part": part, "action": action, "what": told}
        if action == "rollback":
            event |= {"after": after, "factor": self._settings.factor}
        self.events.append(event)
        if self._first:
            write_json(self._path, self.events)
            print(f"{told}: {'the batch is skipped' if action == 'skip' else f'rolled back to step {after}'}", flush=True)
        if action == "rollback":
            rate = self.factor(after)
            raise RolledBack(f"{told}; goes on from {last.name if last else 'the start'} with {rate:g} of the learning rate")

    def metrics(self) -> dict[str, float]:
        """Counts for the result, where there is something to count."""
        kinds = [event["action"] for event in self.events]
        names = {"skipped_batches": "skip", "roll_backs": "rollback"}
        return {name: float(kinds.count(kind)) for name, kind in names.items() if kind in kinds}

    def notes(self) -> list[str]:
        return [f"{event['what']}: {_did(event)}" for event in self.events]


def spike(loss: float, before: Sequence[float], deviations: float | None) -> str | None:
    """A sentence if a loss stands out above those before it."""
    recent = [value for value in before[-WINDOW:] if math.isfinite(value)]
    if deviations is None or len(recent) < FEWEST or not math.isfinite(loss):
        return None
    mean = sum(recent) / len(recent)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in recent) / len(recent))
    # A series without noise has no deviation to measure by.
    if loss - mean <= deviations * max(deviation, 1e-3 * abs(mean), 1e-12):
        return None
    return f"loss spike: {loss:.4g}, where the last {len(recent)} were {mean:.4g} on average with a deviation of {deviation:.2g}"


def spikes(lines: Sequence[dict[str, Any]], deviations: float | None) -> list[str]:
    """Every spike among the lines of a record that hold a loss."""
    logged = [(line["step"], line["loss"]) for line in lines if isinstance(line.get("loss"), int | float)]
    values = [loss for _, loss in logged]
    found = [(step, spike(loss, values[max(0, place - WINDOW) : place], deviations)) for place, (step, loss) in enumerate(logged)]
    return [f"{sentence}, at step {step}" for step, sentence in found if sentence]


class Rows(Protocol):
    """A training set that says what its rows are made of."""

    def documents(self, index: int) -> list[int]:
        """Numbers of a row's documents, counted from 0 as they were read."""

    def tokens(self, index: int) -> list[list[int]]:
        """Ids of those documents."""


def rows_told(trouble: Trouble, data: Rows, places: range, tokenizer: Any, step: int) -> str:
    """The rows of a step in words; their documents and text are written beside the attempt's log."""
    decode = tokenizer.decode if tokenizer is not None else lambda ids: " ".join(map(str, ids))
    held = [{"row": row, "documents": data.documents(row), "texts": [decode(ids) for ids in data.tokens(row)]} for row in places]
    file = trouble.keep(f"diverged-{step}.json", held)
    documents = [number for row in places for number in data.documents(row)]
    few = ", ".join(map(str, documents[:8])) + (f" and {len(documents) - 8} more" if len(documents) > 8 else "")
    return f"rows {places[0]} to {places[-1]} (training documents {few}; their text is in {file})"


def _did(event: dict[str, Any]) -> str:
    return "skipped" if event["action"] == "skip" else f"rolled back to step {event['after']}, learning rate times {event['factor']:g}"


def _summary(events: Sequence[dict[str, Any]]) -> str:
    return "; ".join(f"step {event['step']} {_did(event)}" for event in events)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StageError(
            f"{path} cannot be read ({error}); it says which batches were skipped and when the learning rate was lowered"
        ) from error
    return list(found)
