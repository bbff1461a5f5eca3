"""What a stage said to the same held-out prompts while it trained, from its `samples.jsonl`: step by step, a few prompts of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.report.evaluation import as_text
from pipeline.report.reading import Stage

PROMPTS, STEPS = 4, 6
"""Most prompts, and most steps of each, that the page shows."""


@dataclass(frozen=True)
class Spoken:
    """One answer on the way."""

    step: float
    text: str
    reward: float | None
    finished: bool | None


@dataclass(frozen=True)
class Thread:
    """One prompt and what was said to it, from the start to the end."""

    prompt: str
    reference: str
    answers: list[Spoken]

    @property
    def is_rewarded(self) -> bool:
        return any(answer.reward is not None for answer in self.answers)


def threads(stage: Stage, limit: int = PROMPTS) -> list[Thread]:
    """By prompt, in the order of the file; nothing where the stage left no samples. Torn and foreign lines are passed over."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(stage.folder / "samples.jsonl") if stage.folder else ():
        key = json.dumps([line.get("prompt"), line.get("reference")])
        grouped.setdefault(key, []).append(line)
    return [_thread(lines) for lines in list(grouped.values())[:limit]]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    # Not splitlines: an answer may hold any character, and some of them end lines there.
    for line in text.split("\n"):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int | float) and "answer" in found:
            yield found


def _thread(lines: list[dict[str, Any]]) -> Thread:
    count = min(STEPS, len(lines))
    kept = sorted({round(number * (len(lines) - 1) / max(count - 1, 1)) for number in range(count)})
    reference = lines[0].get("reference")
    return Thread(
        as_text(lines[0].get("prompt")), "" if reference is None else as_text(reference), [_spoken(lines[place]) for place in kept]
    )


def _spoken(line: dict[str, Any]) -> Spoken:
    reward, finished = line.get("reward"), line.get("finished")
    return Spoken(
        line["step"],
        as_text(line["answer"]),
        float(reward) if isinstance(reward, int | float) else None,
        finished if isinstance(finished, bool) else None,
    )
