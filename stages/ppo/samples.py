"""Answers to the same held-out prompts at every evaluation, in `samples.jsonl`: what the numbers look like in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.core.samples import Record
from stages.ppo.rollout import Rollout


@dataclass(frozen=True)
class Samples:
    record: Record
    count: int
    """Prompts whose answers are written, the first ones."""

    def write(self, step: int, rollout: Rollout, messages: Sequence[list[dict[str, Any]]]) -> None:
        """One line an answer: step, prompt, answer, whether it ended, reward and its parts."""
        lines = []
        for row in range(min(self.count, len(rollout.texts))):
            parts = {name: round(float(values[row]), 6) for name, values in rollout.scores.parts.items()}
            answer = {"answer": rollout.texts[row], "finished": rollout.completions[row].finished}
            lines.append({"step": step, "prompt": messages[row], **answer, "reward": round(float(rollout.scores.total[row]), 6), **parts})
        self.record.write(lines)
