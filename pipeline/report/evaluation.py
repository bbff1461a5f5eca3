"""What the evaluation stage left: its samples side by side, and points for the plots of truth, reward and KL. Degrades to nothing."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.report.charts import Dot, Histogram, Line, Scatter, histogram, scatter
from pipeline.report.reading import Grid, Run, Stage
from pipeline.report.series import thin, trend

TEXT_LIMIT = 4_000
"""Characters of one prompt or answer that the page shows."""


@dataclass(frozen=True)
class Answer:
    """What one model said."""

    model: str
    text: str
    scores: dict[str, float] = field(default_factory=dict)
    finished: bool | None = None


@dataclass(frozen=True)
class Sample:
    """One prompt and every model's answer to it."""

    prompt: str
    reference: str
    answers: list[Answer]

    @property
    def best(self) -> str:
        """The model whose answer has the highest reward; empty where it is not known or shared."""
        rewards = {answer.model: answer.scores["reward"] for answer in self.answers if "reward" in answer.scores}
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


def outcomes(run: Run, samples: int = 40) -> list[Outcome]:
    """One for each evaluation stage that has a result."""
    return [_outcome(run, stage, samples) for stage in run.stages if stage.kind == "evaluate" and stage.folder is not None]


def _outcome(run: Run, stage: Stage, limit: int) -> Outcome:
    artifact = (stage.folder or Path()) / "artifact"
    tables = list(stage.tables) or list(_tables(artifact))
    shown = list(_samples(artifact))
    plots = [plot for plot in (_truth(stage, tables), *_frontiers(run, stage, tables)) if plot is not None]
    rewards: dict[str, list[float]] = {}
    for sample in shown:
        for answer in sample.answers:
            if "reward" in answer.scores:
                rewards.setdefault(answer.model, []).append(answer.scores["reward"])
    few = all(len(values) < 12 for values in rewards.values())
    spread = None if few else histogram(f"{stage.name}-rewards", "Reward distribution", "Share of the answers by reward.", rewards)
    return Outcome(stage.name, tables, shown[:limit], plots, [spread] if spread else [])


def _tables(artifact: Path) -> Iterator[Grid]:
    """Tables that lie in the artifact, where the result has none."""
    for name in ("table.json", "tables.json"):
        value = _json(artifact / name)
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict) and isinstance(table.get("columns"), list) and isinstance(table.get("rows"), list):
                rows = [row for row in table["rows"] if isinstance(row, list)]
                yield Grid(str(table.get("title", "")), [str(column) for column in table["columns"]], rows)


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
            yield Sample(_said(row.get("prompt") or row.get("messages")), "" if reference is None else _said(reference), answers)


def _rows(artifact: Path) -> Iterator[dict[str, Any]]:
    value = _json(artifact / "samples.json")
    if isinstance(value, dict):
        value = value.get("samples")
    if value is None and (artifact / "samples.jsonl").is_file():
        lines = (artifact / "samples.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
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
        yield Answer(str(model), _said(text), dict(_scores(record)), finished if isinstance(finished, bool) else None)


def _scores(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scores(value, "" if name in ("scores", "rewards", "metrics") else f"{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name.replace("_", " "), float(value)


def _said(value: Any) -> str:
    """A prompt or answer as text: a conversation gets a line per turn, its speaker named."""
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        turns = [f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in value]
        text = str(value[0].get("content", "")) if len(value) == 1 else "\n".join(turns)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + f" … ({len(text) - TEXT_LIMIT} more characters)"


def column(table: Grid, *patterns: str) -> int | None:
    """Index of the first column whose heading fits one of the patterns, in the order of the patterns."""
    for pattern in patterns:
        for index, heading in enumerate(table.columns):
            if index and re.search(pattern, heading, re.IGNORECASE):
                return index
    return None


def points(table: Grid, x: int, y: int) -> list[Dot]:
    """Rows of a table as points, where both cells are numbers. Best-of-n is a yardstick, so it gets a shape of its own."""
    dots = []
    for index, row in enumerate(table.rows):
        if len(row) > max(x, y) and _number(row[x]) and _number(row[y]):
            label = str(row[0])
            dots.append(
                Dot(label, float(row[x]), float(row[y]), index, "diamond" if re.search(r"best.?of", label, re.IGNORECASE) else "circle")
            )
    return dots


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TRUTH = (r"^truth", r"utility", r"truth", r"^exam", r"accuracy", r"correct", r"sampled", r"greedy")
REWARD = (r"^reward$", r"^reward\b(?!.*(std|low|high|±))", r"^score$")
KL_COLUMN = (r"^kl\b", r"\bkl\b")


def _truth(stage: Stage, tables: list[Grid]) -> Scatter | None:
    for table in tables:
        reward, truth = column(table, *REWARD), column(table, *TRUTH)
        if reward is not None and truth is not None and reward != truth and len(dots := points(table, reward, truth)) > 1:
            family = [dot for dot in dots if dot.shape == "circle"]
            descent = [Line("descent", [dot.x for dot in family], [dot.y for dot in family], 0, "faint")] if len(family) > 1 else []
            text = "Up and to the right together is learning; to the right and down is a reward model that is being exploited."
            return scatter(f"{stage.name}-truth", "Truth against reward", text, ("reward", table.columns[truth].lower()), dots, descent)
    return None


def _frontiers(run: Run, stage: Stage, tables: list[Grid]) -> Iterator[Scatter | None]:
    """Reward bought per nat of KL: the path of every PPO stage, and best-of-n as the yardstick."""
    dots: list[Dot] = []
    for table in tables:
        kl, reward = column(table, *KL_COLUMN), column(table, *REWARD)
        if kl is not None and reward is not None:
            dots = points(table, kl, reward)
            break
    paths = [path for other in run.stages if other.kind == "ppo" and (path := _ppo_path(other)) is not None]
    text = "Reward against the distance from the baseline. Diamonds are best-of-n: what choosing among n answers gives without training."
    yield scatter(f"{stage.name}-frontier", "KL and reward", text, ("KL to the baseline, nats", "reward"), dots, paths)


def _ppo_path(stage: Stage) -> Line | None:
    kl, reward = stage.curves["kl"], stage.curves["reward"]
    if kl is None or reward is None:
        return None
    both = sorted(set(kl.steps) & set(reward.steps))
    if len(both) < 5:
        return None
    by_step = [dict(zip(series.steps, series.values, strict=True)) for series in (kl, reward)]
    xs, ys = (trend([values[step] for step in both], 0.1) for values in by_step)
    thin_steps, _ = thin(both, ys, 120)
    kept = [both.index(step) for step in thin_steps]
    return Line(f"{stage.name} while training", [xs[i] for i in kept], [ys[i] for i in kept], 7, "solid")
