"""What the evaluation stage left: its samples side by side, and points for the plots of truth, reward and KL. Degrades to nothing."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.report import outcome_plots
from pipeline.report.charts import Histogram, Scatter
from pipeline.report.exams import exams
from pipeline.report.reading import Grid, Run, Stage

TEXT_LIMIT = 4_000
"""Characters of one prompt or answer that the page shows."""


@dataclass(frozen=True)
class Answer:
    """What one model said."""

    model: str
    text: str
    scores: dict[str, float] = field(default_factory=dict)
    finished: bool | None = None
    manner: str = ""
    """`sampled` or `greedy`, where a model answered in both ways."""


@dataclass(frozen=True)
class Sample:
    """One prompt and every model's answer to it."""

    prompt: str
    reference: str
    answers: list[Answer]

    @property
    def by_model(self) -> dict[str, list[Answer]]:
        grouped: dict[str, list[Answer]] = {}
        for answer in self.answers:
            grouped.setdefault(answer.model, []).append(answer)
        return grouped

    @property
    def best(self) -> str:
        """The model whose first answer has the highest reward; empty where it is not known or shared."""
        rewards = {model: answers[0].scores["reward"] for model, answers in self.by_model.items() if "reward" in answers[0].scores}
        top = [model for model, reward in rewards.items() if reward == max(rewards.values())]
        return top[0] if len(top) == 1 and len(rewards) > 1 else ""


@dataclass(frozen=True)
class Outcome:
    """What the run came to, from one evaluation stage."""

    stage: str
    tables: list[Grid]
    samples: list[Sample]
    plots: list[Scatter]
    spreads: list[Histogram]
    win_rates: list[tuple[str, float]]
    """Of each model, against the baseline: the share of the same prompts on which its answer has the higher reward."""
    baseline: str


def outcomes(run: Run, samples: int = 40) -> list[Outcome]:
    """One for each evaluation stage that has a result."""
    return [_outcome(run, stage, samples) for stage in run.stages if stage.kind == "evaluate" and stage.folder is not None]


def _outcome(run: Run, stage: Stage, limit: int) -> Outcome:
    artifact = (stage.folder or Path()) / "artifact"
    shown = list(_samples(artifact)) or list(read_markdown(_text(artifact / "samples.md")))
    rewards: dict[str, list[float]] = {}
    for sample in shown:
        for answer in sample.answers:
            if "reward" in answer.scores:
                rewards.setdefault(answer.model, []).append(answer.scores["reward"])
    left = _json(artifact / "points.json")
    every = [(exam, outcome_plots.points_of(left, exam)) for exam in exams(stage.metrics)]
    plots = [
        plot
        for exam, points in every
        for plot in (outcome_plots.truth_plot(stage, exam, points), outcome_plots.frontier(run, stage, exam, points))
        if plot is not None
    ]
    spreads = [found for exam, points in every if (found := outcome_plots.spread(stage, exam, points, rewards)) is not None]
    wins = [
        (model, values["win_rate"]) for exam in exams(stage.metrics)[:1] for model, values in exam.models.items() if "win_rate" in values
    ]
    baseline = every[0][1].baseline if every else ""
    return Outcome(stage.name, list(stage.tables), shown[:limit], plots, spreads, wins, baseline)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _samples(artifact: Path) -> Iterator[Sample]:
    for row in _rows(artifact):
        answers = list(_answers(row.get("answers") or row.get("completions")))
        if answers:
            reference = row.get("reference")
            yield Sample(as_text(row.get("prompt") or row.get("messages")), "" if reference is None else as_text(reference), answers)


def _rows(artifact: Path) -> Iterator[dict[str, Any]]:
    value = _json(artifact / "samples.json")
    if isinstance(value, dict):
        value = value.get("samples")
    if value is None and (artifact / "samples.jsonl").is_file():
        lines = (
            (artifact / "samples.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
        )  # an answer may hold what ends a line elsewhere
        value = [row for line in lines if (row := _line(line)) is not None]
    yield from (row for row in value or () if isinstance(row, dict))


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _answers(given: Any) -> Iterator[Answer]:
    """Answers by model (text, or a record of text and scores), or as a list of records that name their model."""
    pairs = given.items() if isinstance(given, dict) else ((item.get("model", ""), item) for item in given or () if isinstance(item, dict))
    for model, value in pairs:
        record = value if isinstance(value, dict) else {"text": value}
        text = next((record[key] for key in ("text", "answer", "completion") if record.get(key) is not None), "")
        finished = record.get("finished")
        yield Answer(
            str(model),
            as_text(text),
            dict(_scores(record)),
            finished if isinstance(finished, bool) else None,
            str(record.get("manner") or ""),
        )


def _scores(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scores(value, "" if name in ("scores", "rewards", "metrics") else f"{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name.replace("_", " "), float(value)


def as_text(value: Any) -> str:
    """A prompt or answer as text: a conversation gets a line per turn, its speaker named."""
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        turns = [f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in value]
        text = str(value[0].get("content", "")) if len(value) == 1 else "\n".join(turns)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + f" … ({len(text) - TEXT_LIMIT} more characters)"


def read_markdown(text: str) -> Iterator[Sample]:
    """Samples from the page that the evaluation stage writes for people: numbered prompts in quotes, and a table of answers."""
    for part in re.split(r"^## \d+$", text, flags=re.MULTILINE)[1:]:
        lines = part.strip().split("\n")
        prompt = "\n".join(line[2:] for line in lines if line.startswith("> "))
        reference = next((line.removeprefix("Reference: ") for line in lines if line.startswith("Reference: ")), "")
        rows = [
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")
        ]
        answers = [Answer(row[0], as_text(row[2]), _worth(row[3]), None, row[1]) for row in rows[2:] if len(row) == 4]
        if answers:
            yield Sample(as_text(_alone(prompt)), as_text(reference), answers)


def _alone(prompt: str) -> str:
    """A conversation of one turn as its words, as `as_text` tells them."""
    return prompt.removeprefix("user: ") if "\n" not in prompt else prompt


def _worth(cell: str) -> dict[str, float]:
    found = (re.fullmatch(r"(.+) (\S+)", part.strip()) for part in cell.split(","))
    return {match[1]: float(match[2]) for match in found if match and re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", match[2])}
