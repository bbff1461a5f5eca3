"""Curves of a stage: read from `metrics.jsonl`, thinned without losing an extreme, smoothed. Pure but for the reading."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Series:
    """One number over the steps of a stage; only finite values."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    non_finite: tuple[float, ...] = ()
    """Steps at which the value was not a number or infinite."""

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None

    @property
    def constant(self) -> bool:
        """Whether all values are the same in the figures that are shown; a chart of the rest would be one of rounding."""
        return not self.values or max(self.values) - min(self.values) <= 1e-4 * max(map(abs, self.values))


@dataclass(frozen=True)
class Curves:
    """All series of a stage, in the order of their first appearance, and what could not be read."""

    series: tuple[Series, ...] = ()
    unreadable_lines: int = 0

    def __getitem__(self, name: str) -> Series | None:
        return next((series for series in self.series if series.name == name), None)


def read_curves(path: Path) -> Curves:
    """Every numeric key of `metrics.jsonl` but `step` and `steps`, as a series. A missing file has none; a half-written last line is left out."""
    if not path.is_file():
        return Curves()
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    torn = lines.pop()  # what follows the last newline is still being written
    points: dict[str, dict[float, float]] = {}
    unreadable = 0
    for line in [*lines, torn]:
        row = _row(line)
        if row is None:
            unreadable += bool(line.strip()) and line is not torn
            continue
        for name, value in _numbers(row):
            # Within a file a later line of the same step replaces the earlier one: a resumed attempt repeats steps.
            points.setdefault(name, {})[float(row["step"])] = value
    return Curves(tuple(_series(name, values) for name, values in points.items()), unreadable)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and _is_number(row.get("step")) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif (_is_number(value) or value is None) and prefix + name not in ("step", "steps"):
            yield prefix + name, math.nan if value is None else float(value)  # a stage writes null for what is not finite


def _series(name: str, points: dict[float, float]) -> Series:
    steps = sorted(points)
    finite = [step for step in steps if math.isfinite(points[step])]
    bad = tuple(step for step in steps if not math.isfinite(points[step]))
    return Series(name, tuple(finite), tuple(points[step] for step in finite), bad)


def thin(xs: Sequence[float], ys: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """At most `limit` points that keep the first, the last, and the smallest and largest of every bucket, so that no spike is lost."""
    count = len(xs)
    if count <= max(limit, 4):
        return list(xs), list(ys)
    buckets = max(1, (limit - 2) // 2)
    kept = {0, count - 1}
    for bucket in range(buckets):
        inside = range(bucket * count // buckets, (bucket + 1) * count // buckets)
        kept.add(min(inside, key=ys.__getitem__))
        kept.add(max(inside, key=ys.__getitem__))
    order = sorted(kept)
    return [xs[i] for i in order], [ys[i] for i in order]


def trend(ys: Sequence[float], share: float = 0.06) -> list[float]:
    """Centred moving average over `share` of the points: no lag, and the ends use the points that there are."""
    half = max(1, round(len(ys) * share / 2))
    sums = [0.0]
    for y in ys:
        sums.append(sums[-1] + y)
    bounds = [(max(0, i - half), min(len(ys), i + half + 1)) for i in range(len(ys))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds]


def noise(ys: Sequence[float]) -> float:
    """How far neighbours differ, as a share of the whole range: 0 for a smooth curve, about 0.3 for pure noise."""
    span = max(ys) - min(ys) if ys else 0.0
    if len(ys) < 3 or span == 0:
        return 0.0
    return sum(abs(b - a) for a, b in pairwise(ys)) / (len(ys) - 1) / span
