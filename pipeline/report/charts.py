"""Geometry of the charts: scales, ticks and paths. The markup is in `charts.html.jinja`, so that one autoescape covers every label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from pipeline.report.catalogue import Scale, meaning, parse, pretty
from pipeline.report.series import Curves, Series, noise, thin, trend

WIDTH, HEIGHT = 440, 200
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 8, 24
PALETTE = 8
"""Colours that the style sheet has; further lines begin anew."""


@dataclass(frozen=True)
class Axis:
    """One scale: data between `low` and `high` lie between pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    scale: Scale = "linear"

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(max(v, 1e-300)) if self.scale == "log" else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[tuple[float, float]]:
        """(value, pixel) of round values inside the range."""
        values = log_ticks(self.low, self.high) if self.scale == "log" else linear_ticks(self.low, self.high, count)
        return [(value, self(value)) for value in values]


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(count, 1)
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    if len(decades) > 8:
        decades = decades[:: len(decades) // 6]
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [float(f"{tick:.12g}") for tick in ticks if low <= tick * 1.0000001 and tick <= high * 1.0000001]
    return inside if len(inside) > 1 else linear_ticks(low, high, 4)


def spread(values: Sequence[float], scale: Scale = "linear", pad: float = 0.06) -> tuple[float, float]:
    """A range that holds the values with some air, and is never empty."""
    low, high = min(values), max(values)
    if scale == "log":
        factor = max((high / low) ** pad, 1.05)
        return low / factor, high * factor
    if low == high:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        return low, high
    air = (high - low) * pad
    # A quantity that is never negative does not get a negative axis for the sake of air.
    return (0.0 if 0 <= low < air * 3 else low - air), high + air


@dataclass(frozen=True)
class Line:
    """A polyline with a name."""

    label: str
    xs: list[float]
    ys: list[float]
    colour: int
    style: str = "solid"
    """`solid`; `faint` for raw noise under its `trend`; `dashed` for held-out data."""
    dots: bool = False

    @property
    def last(self) -> float | None:
        return self.ys[-1] if self.ys else None


@dataclass(frozen=True)
class Chart:
    """One chart with its lines, ready to be drawn."""

    key: str
    title: str
    text: str
    unit: str
    lines: list[Line]
    scale: Scale = "linear"
    x_label: str = "step"
    can_log: bool = False
    summary: str = ""
    """What a screen reader says instead of the picture."""
    table: list[list[str]] = field(default_factory=list)
    x: Axis = Axis(0, 1, LEFT, WIDTH - RIGHT)
    y: Axis = Axis(0, 1, HEIGHT - BOTTOM, TOP)

    def path(self, line: Line) -> str:
        points = [f"{self.x(x):g},{self.y(y):g}" for x, y in zip(line.xs, line.ys, strict=True)]
        return "M" + "L".join(points) if points else ""

    def data(self) -> dict[str, Any]:
        """What the script needs to draw the chart again at another zoom."""
        lines = [{"name": line.label, "xs": _short(line.xs), "ys": _short(line.ys)} for line in self.lines]
        return {"lines": lines, "scale": self.scale, "unit": self.unit, "x": [self.x.low, self.x.high], "xlabel": self.x_label}


def _short(values: Sequence[float]) -> list[float]:
    return [int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.5g}") for value in values]


def stage_chart(key: str, names: Sequence[str], curves: Curves, limit: int, x_range: tuple[float, float] | None = None) -> Chart:
    """The chart of the series that share a base name: the plain one leads, held-out ones are dashed, noisy ones get a trend."""
    held = [series for name in sorted(names, key=_leading) if (series := curves[name]) and series.values]
    told = meaning(min(names, key=_leading)) if held else meaning(names[0])
    title = told.label if len(held) == 1 else meaning(parse(names[0]).base).label
    words = [parse(name).part.split("_") for name in names]
    shared = " ".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False)))
    title += f": {shared}" if len(held) > 1 and shared else ""
    held, unit = _in_reach(held, told.unit)
    parts = list(dict.fromkeys(parse(series.name).part for series in held))  # on held-out data a part keeps its colour
    lines = [line for series in held for line in _lines(series, parts.index(parse(series.name).part), limit, alone=len(held) == 1)]
    positive = bool(held) and all(value > 0 for series in held for value in series.values)
    scale: Scale = "log" if positive and told.scale == "log" and _decades(held) > 1 else "linear"
    x, y = axes(lines, scale, x_range)
    can_log = positive and _decades(held) > 0.3
    return Chart(key, title, told.text, unit, lines, scale, "step", can_log, summary(title, unit, held), numbers(held, unit), x, y)


def _in_reach(held: list[Series], unit: str) -> tuple[list[Series], str]:
    """Bytes as MiB or GiB, so that the axis has round numbers of them; all else as it is."""
    if unit != "B" or not held:
        return held, unit
    factor, unit = (2**20, "MiB") if max(max(series.values) for series in held) < 2**34 else (2**30, "GiB")
    return [replace(series, values=tuple(value / factor for value in series.values)) for series in held], unit


def _leading(name: str) -> tuple[bool, bool, str]:
    named = parse(name)
    return bool(named.part), named.held_out, name


def _decades(held: Sequence[Series]) -> float:
    values = [value for series in held for value in series.values]
    return math.log10(max(values) / min(values)) if min(values) > 0 else 0.0


def _lines(series: Series, index: int, limit: int, *, alone: bool) -> list[Line]:
    told, named = meaning(series.name), parse(series.name)
    label = "value" if alone else " ".join(filter(None, (named.part.replace("_", " "), "held out" if named.held_out else ""))) or told.label
    xs, ys = thin(series.steps, series.values, limit)
    colour = index % PALETTE
    if len(series.values) < 30 or noise(series.values) < 0.04:
        few = len(series.values) < 30
        return [Line(label, xs, ys, colour, "dashed" if named.held_out and not alone else "solid", dots=few)]
    smooth_xs, smooth_ys = thin(series.steps, trend(series.values), max(limit // 3, 40))
    return [Line(label, xs, ys, colour, "faint"), Line(f"{label}, smoothed", smooth_xs, smooth_ys, colour, "trend")]


def axes(lines: Sequence[Line], scale: Scale, x_range: tuple[float, float] | None = None) -> tuple[Axis, Axis]:
    """The two axes that hold all lines."""
    xs = [x for line in lines for x in line.xs] or [0.0, 1.0]
    ys = [y for line in lines for y in line.ys] or [0.0, 1.0]
    low, high = x_range or (min(xs), max(xs))
    if low == high:
        low, high = low - 1, high + 1
    bottom, top = spread(ys, scale)
    return Axis(low, high, LEFT, WIDTH - RIGHT), Axis(bottom, top, HEIGHT - BOTTOM, TOP, scale)


def summary(title: str, unit: str, held: Sequence[Series]) -> str:
    """The chart in a sentence a series."""
    if not held:
        return f"{title}: no finite values."
    sentences = []
    for series in held:
        lowest, highest = min(series.values), max(series.values)
        label = meaning(series.name).label
        first, last = pretty(series.values[0], unit), pretty(series.values[-1], unit)
        sentences.append(
            f"{label}: from {first} to {last} in {len(series.values)} points, lowest {pretty(lowest, unit)}, highest {pretty(highest, unit)}."
        )
    return " ".join(sentences)


def numbers(held: Sequence[Series], unit: str, rows: int = 12) -> list[list[str]]:
    """The chart as a table: a header and at most `rows` rows, the first and last step among them."""
    if not held:
        return []
    steps = sorted({step for series in held for step in series.steps})
    count = min(rows, len(steps))
    chosen = sorted({steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)})
    lookup = [dict(zip(series.steps, series.values, strict=True)) for series in held]
    header = ["step", *(meaning(series.name).label for series in held)]
    return [header, *([f"{step:g}", *(pretty(values.get(step), unit) for values in lookup)] for step in chosen)]


@dataclass(frozen=True)
class Dot:
    """A named point of a scatter plot."""

    label: str
    x: float
    y: float
    colour: int = 0
    shape: str = "circle"
    """`circle`, or `diamond` for a yardstick."""


@dataclass(frozen=True)
class Scatter:
    """Two measures against each other, with a path through the points that follow each other."""

    key: str
    title: str
    text: str
    x_label: str
    y_label: str
    dots: list[Dot]
    paths: list[Line]
    x: Axis
    y: Axis

    def path(self, line: Line) -> str:
        return "M" + "L".join(f"{self.x(x):g},{self.y(y):g}" for x, y in zip(line.xs, line.ys, strict=True))

    def place(self, dot: Dot) -> dict[str, Any]:
        """Pixels of a dot, and on which side its label has room."""
        x, y = self.x(dot.x), self.y(dot.y)
        left = x > self.x.start + 0.62 * (self.x.end - self.x.start)
        return {"x": x, "y": y, "anchor": "end" if left else "start", "dx": -9 if left else 9}


def scatter(key: str, title: str, text: str, labels: tuple[str, str], dots: list[Dot], paths: Sequence[Line] = ()) -> Scatter | None:
    """A scatter plot with its axes; None where fewer than two finite points are there."""
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    xs = [dot.x for dot in dots] + [x for line in paths for x in line.xs]
    ys = [dot.y for dot in dots] + [y for line in paths for y in line.ys]
    if len(xs) < 2:
        return None
    x_axis = Axis(*spread(xs, pad=0.12), LEFT, WIDTH - RIGHT)
    y_axis = Axis(*spread(ys, pad=0.15), HEIGHT + 60 - BOTTOM - 12, TOP)
    return Scatter(key, title, text, *labels, dots, list(paths), x_axis, y_axis)


@dataclass(frozen=True)
class Histogram:
    """How one number is spread, for a few groups over the same bins."""

    key: str
    title: str
    text: str
    edges: list[float]
    counts: dict[str, list[int]]
    x: Axis
    y: Axis

    def path(self, label: str) -> str:
        """The outline of one group's bins, as shares of the group, so that groups of different size compare."""
        counts = self.counts[label]
        total = sum(counts) or 1
        points = [f"{self.x(self.edges[0]):g},{self.y(0):g}"]
        for count, low, high in zip(counts, self.edges, self.edges[1:], strict=False):
            points += [f"{self.x(low):g},{self.y(count / total):g}", f"{self.x(high):g},{self.y(count / total):g}"]
        return "M" + "L".join([*points, f"{self.x(self.edges[-1]):g},{self.y(0):g}"])


def histogram(key: str, title: str, text: str, groups: dict[str, list[float]], bins: int = 20) -> Histogram | None:
    """The spread of each group's finite values over common bins; None where there is nothing to spread."""
    groups = {label: [value for value in values if math.isfinite(value)] for label, values in groups.items()}
    everything = [value for values in groups.values() for value in values]
    if len(set(everything)) < 3:
        return None
    low, high = min(everything), max(everything)
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    counts = {label: [0] * bins for label, values in groups.items() if values}
    for label in counts:
        for value in groups[label]:
            counts[label][min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    top = max(count / sum(column) for column in counts.values() for count in column)
    return Histogram(key, title, text, edges, counts, Axis(low, high, LEFT, WIDTH - RIGHT), Axis(0, top * 1.08, HEIGHT - BOTTOM, TOP))
