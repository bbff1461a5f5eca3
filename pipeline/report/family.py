"""The family tree of a run's stages as a layered drawing (Sugiyama et al. 1981): columns by longest path, few crossings, shared wires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """Of the drawing, along the flow of the family and across it."""

    box_along: float
    box_across: float
    gap_along: float
    gap_across: float
    vertical: bool = False


WIDE = Sizes(box_along=166, box_across=76, gap_along=40, gap_across=20)
"""From left to right, for screens."""
TALL = Sizes(box_along=76, box_across=166, gap_along=30, gap_across=14, vertical=True)
"""From top to bottom, for phones and paper."""
WIRE = 10


@dataclass
class Place:
    """A stage's box, or the point where a wire passes through a column."""

    name: str
    column: int
    wire: bool
    across: float = 0.0
    before: list["Place"] = field(default_factory=list)
    after: list["Place"] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Wire:
    path: str
    kind: str
    source: str
    target: str


@dataclass(frozen=True)
class Tree:
    """The drawing: boxes and the wires between them."""

    boxes: list[Box]
    wires: list[Wire]
    width: float
    height: float


def draw(parents: Mapping[str, Mapping[str, str]], sizes: Sizes = WIDE) -> Tree:
    """Lay out stages, given for each one, in recipe order, its parents and the kind of each tie (`model`, `data`, ...)."""
    columns = _columns(parents)
    _uncross(columns)
    _level(columns, sizes)
    places = [place for column in columns for place in column]
    top = min((place.across - _half(place, sizes) for place in places), default=0.0)
    for place in places:
        place.across -= top
    boxes = [_box(place, sizes) for place in places if not place.wire]
    wires = [
        Wire(_curve(place, after, sizes), _kind(parents, place, after), place.name, after.name) for place in places for after in place.after
    ]
    across = max((place.across + _half(place, sizes) for place in places), default=0.0)
    along = _start(len(columns), sizes) - sizes.gap_along if columns else 0.0
    return Tree(boxes, wires, *((across, along) if sizes.vertical else (along, across)))


def _columns(parents: Mapping[str, Mapping[str, str]]) -> list[list[Place]]:
    """Stages by the length of their longest path; a wire that spans columns passes each of them once for all its targets."""
    depth: dict[str, int] = {}
    for name in parents:
        depth[name] = 1 + max((depth[parent] for parent in parents[name] if parent in depth), default=-1)
    columns: list[list[Place]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    stages = {name: Place(name, depth[name], wire=False) for name in parents}
    for place in stages.values():
        columns[place.column].append(place)
    wires: dict[tuple[str, int], Place] = {}
    for child in parents:
        for parent in (parent for parent in parents[child] if parent in stages):
            previous = stages[parent]
            for column in range(depth[parent] + 1, depth[child]):
                if (parent, column) not in wires:
                    wires[parent, column] = passing = Place(parent, column, wire=True)
                    columns[column].append(passing)
                    _join(previous, passing)
                previous = wires[parent, column]
            _join(previous, stages[child])
    return columns


def _join(source: Place, target: Place) -> None:
    source.after.append(target)
    target.before.append(source)


def _uncross(columns: Sequence[list[Place]]) -> None:
    """Order each column by where its neighbours stand, there and back a few times."""
    for sweep in range(6):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            rank = {id(place): index for other in columns for index, place in enumerate(other)}
            keys = {}
            for index, place in enumerate(column):
                neighbours = place.before if forward else place.after
                keys[id(place)] = sum(rank[id(other)] for other in neighbours) / len(neighbours) if neighbours else float(index)
            column.sort(key=lambda place: keys[id(place)])


def _level(columns: Sequence[list[Place]], sizes: Sizes) -> None:
    """Pull every box towards its neighbours, so that a line of descent runs straight."""
    for column in columns:
        _stack(column, [0.0] * len(column), sizes)
    for sweep in range(12):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            _stack(column, [_wish(place) for place in column], sizes)


def _wish(place: Place) -> float:
    """Where a place would stand for its neighbours' sake; boxes pull harder than wires, so that descent runs straight and wires bend."""
    pulls = [(other.across, 0.2 if place.wire or other.wire else 1.0) for other in place.before + place.after]
    return sum(across * pull for across, pull in pulls) / sum(pull for _, pull in pulls) if pulls else place.across


def _stack(column: Sequence[Place], wanted: Sequence[float], sizes: Sizes) -> None:
    """Give each place its wish as far as the gaps allow: push on in order, then move the column back by the mean shift."""
    edge, shifts = float("-inf"), []
    for place, wish in zip(column, wanted, strict=True):
        place.across = max(wish, edge + _half(place, sizes))
        shifts.append(place.across - wish)
        edge = place.across + _half(place, sizes) + sizes.gap_across
    back = sum(shifts) / len(shifts) if shifts else 0.0
    for place in column:
        place.across -= back


def _half(place: Place, sizes: Sizes) -> float:
    return (WIRE if place.wire else sizes.box_across) / 2


def _start(column: int, sizes: Sizes) -> float:
    return column * (sizes.box_along + sizes.gap_along)


def _box(place: Place, sizes: Sizes) -> Box:
    along, across = _start(place.column, sizes), place.across - sizes.box_across / 2
    return Box(place.name, *((across, along) if sizes.vertical else (along, across)))


def _curve(source: Place, target: Place, sizes: Sizes) -> str:
    start, end = _start(source.column, sizes) + sizes.box_along, _start(target.column, sizes)
    middle = (start + end) / 2
    points = [(start, source.across), (middle, source.across), (middle, target.across), (end, target.across)]
    if target.wire:
        points += [(end + sizes.box_along / 2, target.across)] * 2 + [(end + sizes.box_along, target.across)]
    first, *others = (f"{across:.1f},{along:.1f}" if sizes.vertical else f"{along:.1f},{across:.1f}" for along, across in points)
    return f"M{first}C{' '.join(others)}"


def _kind(parents: Mapping[str, Mapping[str, str]], source: Place, target: Place) -> str:
    if not target.wire:
        return parents[target.name][source.name]
    # A shared wire is drawn like the strongest tie that it carries.
    kinds = {ties[source.name] for ties in parents.values() if source.name in ties}
    return "model" if "model" in kinds else next(iter(sorted(kinds)))
