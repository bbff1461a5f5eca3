"""A small scatter plot as SVG: points with intervals and lines between them. No plotting library, so that a report costs no dependency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment

from stages.core.statistics import Estimate

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 60
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#8a3f94", "#6b6b6b")


@dataclass(frozen=True)
class Point:
    """One value in two dimensions, with its intervals."""

    label: str
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined in order where that makes sense."""

    name: str
    points: Sequence[Point]
    joined: bool = False


@dataclass(frozen=True)
class Figure:
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    notes: Sequence[str] = field(default=())


def draw(figure: Figure) -> str:
    """The figure as a complete SVG document. Raises ValueError without a point."""
    points = [point for series in figure.series for point in series.points]
    if not points:
        raise ValueError("a figure needs a point")
    x_ticks = ticks(*_range([point.x for point in points]))
    y_ticks = ticks(*_range([point.y for point in points]))

    def across(value: float) -> float:
        return round(LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM), 1)

    names = dict(zip((series.name for series in figure.series), COLOURS * len(figure.series), strict=False))
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    return _TEMPLATE.render(
        figure=figure, frame=frame, x_ticks=x_ticks, y_ticks=y_ticks, across=across, up=up, colours=names, tick=lambda value: f"{value:g}"
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers at equal distance that enclose [low, high]: about so many, steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _range(values: Sequence[Estimate]) -> tuple[float, float]:
    low, high = min(value.low for value in values), max(value.high for value in values)
    margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - margin, high + margin


_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ frame.width }} {{ frame.height }}" font-family="sans-serif" font-size="12">
<title>{{ figure.title }}</title>
<rect width="{{ frame.width }}" height="{{ frame.height }}" fill="white"/>
<text x="{{ frame.left }}" y="22" font-size="15">{{ figure.title }}</text>
{% for value in x_ticks %}
<line x1="{{ across(value) }}" x2="{{ across(value) }}" y1="{{ frame.top }}" y2="{{ frame.bottom }}" stroke="#e4e4e4"/>
<text x="{{ across(value) }}" y="{{ frame.bottom + 16 }}" text-anchor="middle">{{ tick(value) }}</text>
{% endfor %}
{% for value in y_ticks %}
<line x1="{{ frame.left }}" x2="{{ frame.right }}" y1="{{ up(value) }}" y2="{{ up(value) }}" stroke="#e4e4e4"/>
<text x="{{ frame.left - 6 }}" y="{{ up(value) + 4 }}" text-anchor="end">{{ tick(value) }}</text>
{% endfor %}
<text x="{{ (frame.left + frame.right) / 2 }}" y="{{ frame.bottom + 34 }}" text-anchor="middle">{{ figure.x_label }}</text>
<text transform="translate(16 {{ (frame.top + frame.bottom) / 2 }}) rotate(-90)" text-anchor="middle">{{ figure.y_label }}</text>
{% for series in figure.series %}
<g stroke="{{ colours[series.name] }}" fill="{{ colours[series.name] }}">
{% if series.joined %}
<polyline fill="none" stroke-width="1.5" stroke-dasharray="4 3" points="{% for p in series.points %}{{ across(p.x.mean) }},{{ up(p.y.mean) }} {% endfor %}"/>
{% endif %}
{% for p in series.points %}
<line x1="{{ across(p.x.low) }}" x2="{{ across(p.x.high) }}" y1="{{ up(p.y.mean) }}" y2="{{ up(p.y.mean) }}" stroke-opacity="0.6"/>
<line x1="{{ across(p.x.mean) }}" x2="{{ across(p.x.mean) }}" y1="{{ up(p.y.low) }}" y2="{{ up(p.y.high) }}" stroke-opacity="0.6"/>
<circle cx="{{ across(p.x.mean) }}" cy="{{ up(p.y.mean) }}" r="4"/>
<text x="{{ across(p.x.mean) + 7 }}" y="{{ up(p.y.mean) - 7 }}" stroke="none">{{ p.label }}</text>
{% endfor %}
</g>
<g><circle cx="{{ frame.left + 130 * loop.index0 + 4 }}" cy="{{ frame.height - 8 }}" r="4" fill="{{ colours[series.name] }}"/>
<text x="{{ frame.left + 130 * loop.index0 + 12 }}" y="{{ frame.height - 4 }}">{{ series.name }}</text></g>
{% endfor %}
</svg>
""")
