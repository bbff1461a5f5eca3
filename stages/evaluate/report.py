"""From measured values to what people read: one table for the family, samples side by side, reward and truth in one picture. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stages.contract import Table
from stages.core.statistics import Estimate, best_of_kl
from stages.evaluate.figure import Figure, Point, Series

Value = Estimate | float


@dataclass
class Column:
    """Everything measured of one member of the family, by the quantity's name, in the order of the table."""

    name: str
    values: dict[str, Value] = field(default_factory=dict)
    grouped: dict[str, Value] = field(default_factory=dict)
    """The same by group of prompts; shown in a table of its own."""
    changes: dict[str, Value] = field(default_factory=dict)
    """What became of the baseline's quantities, as differences on the same prompts; in a table of its own."""
    key: str = ""
    """What the column is called in metrics, where that is not its name."""


def family_table(title: str, columns: Sequence[Column], part: Literal["values", "grouped", "changes"] = "values") -> Table:
    """Quantities as rows, models as columns; a value with its 95 % interval."""
    values: list[dict[str, Value]] = [getattr(column, part) for column in columns]
    # In the order of the fullest column, so that what the baseline lacks stands where it belongs.
    names = list(dict.fromkeys(name for each in sorted(values, key=len, reverse=True) for name in each))
    rows: list[list[str | float | None]] = [[readable(name), *(shown(each.get(name)) for each in values)] for name in names]
    return Table(title=title, columns=["", *(column.name for column in columns)], rows=rows)


def shown(value: Value | None) -> str | float | None:
    """`0.71 (0.65 to 0.77)` for an estimate; a number as it is."""
    if isinstance(value, Estimate):
        return f"{_short(value.mean)} ({_short(value.low)} to {_short(value.high)})"
    return None if value is None else float(_short(value))


def readable(name: str) -> str:
    """`good_greedy` as `good, greedy`; `win_rate` as `win rate`."""
    plain, _, greedy = name.partition("_greedy")
    return plain.replace("_", " ") + (f", greedy{greedy.replace('_', ' ')}" if name != plain else "")


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def flat(columns: Sequence[Column]) -> dict[str, float]:
    """`model.quantity` to its number: what recipes require and programs read."""
    return {
        f"{column.key or column.name}.{name}": value.mean if isinstance(value, Estimate) else value
        for column in columns
        for name, value in [*column.values.items(), *column.grouped.items(), *column.changes.items()]
    }


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The tables and notes as a page."""
    parts = ["# Evaluation"]
    for table in tables:
        lines = [_line(table.columns), _line(["---"] + ["---:"] * (len(table.columns) - 1))]
        lines += [_line(["" if cell is None else f"{cell:g}" if isinstance(cell, float) else cell for cell in row]) for row in table.rows]
        parts += [f"## {table.title}", "\n".join(lines)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


@dataclass(frozen=True)
class Said:
    """One model's answer, sampled or greedy, with what it is worth."""

    model: str
    manner: str
    text: str
    worth: Mapping[str, float]


def side_by_side(prompts: Sequence[tuple[str, str, Sequence[Said]]]) -> str:
    """Prompts, each with its reference and every model's answers, as a page."""
    parts = ["# The same prompts, answered by each model"]
    for number, (prompt, reference, answers) in enumerate(prompts, start=1):
        parts.append(f"## {number}\n\n{_quoted(prompt)}" + (f"\n\nReference: {reference}" if reference else ""))
        rows = [[said.model, said.manner, said.text, ", ".join(f"{k} {v:.3g}" for k, v in said.worth.items())] for said in answers]
        parts.append("\n".join(_line(row) for row in [["model", "", "answer", "worth"], ["---"] * 4, *rows]))
    return "\n\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


@dataclass(frozen=True)
class BestOf:
    """What the best of n samples by reward reaches, for the baseline."""

    model: str
    rewards: Mapping[int, Estimate]
    truths: Mapping[int, Estimate]
    """By n."""


def truth_over_reward(columns: Sequence[Column], reward: str, truth: str, best: BestOf | None) -> Figure | None:
    """`reward` and `truth` are quantities of the columns. Each model's true worth against its reward: a model that goes right and down has learned to please the reward model only."""
    points = [
        Point(column.name, _estimate(column.values[reward]), _estimate(column.values[truth]))
        for column in columns
        if reward in column.values and truth in column.values
    ]
    if not points:
        return None
    series = [Series("models", points)]
    if best:
        chosen = [Point(f"n = {n}", best.rewards[n], best.truths[n]) for n in best.rewards if n > 1]
        series.append(Series(f"best of n, {best.model}", chosen, joined=True))
    return Figure("Reward and ground truth", "mean reward (what PPO maximises)", f"{readable(truth)} (what a program checks)", series)


def reward_over_kl(columns: Sequence[Column], kl: str, reward: str, baseline: str, best: BestOf | None) -> Figure | None:
    """`kl` and `reward` are quantities of the columns. Each model's reward against its distance from the baseline, beside the best that n samples of the baseline buy."""
    points = [
        Point(column.name, _estimate(column.values[kl]), _estimate(column.values[reward]))
        for column in columns
        if reward in column.values and kl in column.values
    ]
    if not points:
        return None
    series = [Series("models", points)]
    if best:
        at = {n: Estimate(best_of_kl(n), best_of_kl(n), best_of_kl(n)) for n in best.rewards}
        series.append(Series(f"best of n, {best.model}", [Point(f"n = {n}", at[n], best.rewards[n]) for n in best.rewards], joined=True))
    return Figure("Reward and distance", f"mean KL to {baseline} per answer, in nats", "mean reward", series)


def _estimate(value: Value) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(value, value, value)
