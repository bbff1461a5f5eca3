"""Answers to the same held-out prompts at every evaluation, in `samples.jsonl`: what the numbers look like in words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.ppo.rollout import Rollout


@dataclass(frozen=True)
class Samples:
    path: Path
    count: int
    """Prompts whose answers are written, the first ones."""

    def write(self, step: int, rollout: Rollout, messages: Sequence[list[dict[str, Any]]]) -> None:
        """One line an answer: step, prompt, answer, whether it ended, reward and its parts."""
        lines = []
        for row in range(min(self.count, len(rollout.texts))):
            parts = {name: round(float(values[row]), 6) for name, values in rollout.scores.parts.items()}
            answer = {"answer": rollout.texts[row], "finished": rollout.completions[row].finished}
            lines.append({"step": step, "prompt": messages[row], **answer, "reward": round(float(rollout.scores.total[row]), 6), **parts})
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, which are written again."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        self.path.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step), encoding="utf-8")
