"""What a model says to the same held-out prompts while it trains: `samples.jsonl` beside the metrics, and the same for trackers."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.contract import Job
from stages.core.generation import Transformers
from stages.core.models import Precision, context_of
from stages.core.seeds import seed_for

LONGEST = 32
"""Tokens of an answer: enough to see what has been learned, and cheap."""
TIMES = 4
"""Answers are drawn at the start and after each of so many equal parts of the way."""


@dataclass(frozen=True)
class Record:
    """`samples.jsonl`: one line an answer. Lines after a checkpoint are dropped when a stage goes on from it, and written again."""

    path: Path

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append; each line has its `step`."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and a torn one."""
        if not self.path.exists():
            return
        # Bytes: a torn line may end within a character, and text would also be cut at separators that an answer may hold.
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step))


@dataclass(frozen=True)
class Asked:
    """A held-out prompt."""

    prompt: str | list[dict[str, Any]]
    """As people read it: text, or messages."""
    ids: list[int]
    reference: str
    """How the data goes on."""


class Sampling(TrainerCallback):  # type: ignore[misc]
    """Draws answers between steps of a `StageTraining`: at temperature 1 and each with a seed of its own, always the same, so that what differs is the model.

    The first process draws; the others meet it at the next step. Under ZeRO-3 shards answer only together, and nothing is drawn.
    """

    def __init__(self, job: Job, asked: Sequence[Asked], tokenizer: Any, ends: Collection[int], precision: Precision) -> None:
        self._asked, self._tokenizer, self._ends, self._precision = asked, tokenizer, ends, precision
        self._seeds = [seed_for(job.seed, "sample", number) for number in range(len(asked))]
        self._record = Record(job.folder / "samples.jsonl")
        self.trainer: Any = None
        """Set by the trainer that it is given to."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.is_world_process_zero():
            return
        self._record.rewind(state.global_step)
        if self._asked and self._is_sharded():
            print("no samples on the way: under ZeRO-3 no process holds the whole model", flush=True)
        if state.global_step == 0:
            self._draw(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, steps = state.global_step, state.max_steps
        if step * TIMES // steps > (step - 1) * TIMES // steps and self.trainer.is_world_process_zero():
            self._draw(step)

    def _is_sharded(self) -> bool:
        return any(hasattr(parameter, "ds_id") for parameter in self.trainer.model.parameters())

    def _draw(self, step: int) -> None:
        if not self._asked or self._is_sharded():
            return
        model = self.trainer.model
        engine = Transformers(model, dtype=self._precision.dtype)
        answers = engine.generate(
            [one.ids for one in self._asked],
            seeds=self._seeds,
            temperature=1.0,
            max_new_tokens=room_for_answers(context_of(model)),
            end_ids=self._ends,
        )
        lines = []
        for one, answer in zip(self._asked, answers, strict=True):
            words = self._tokenizer.decode(answer.words, skip_special_tokens=True)
            lines.append({"step": step, "prompt": one.prompt, "answer": words, "finished": answer.finished, "reference": one.reference})
        self._record.write(lines)
        rows = [[_last(one.prompt), str(line["answer"]), one.reference] for one, line in zip(self._asked, lines, strict=True)]
        self.trainer.metrics.trackers.samples(step, "samples", ["prompt", "answer", "reference"], rows)


def room_for_answers(context: int) -> int:
    """Tokens that an answer may take of a context; the prompt has the rest."""
    return min(LONGEST, context // 2)


def _last(prompt: str | list[dict[str, Any]]) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
