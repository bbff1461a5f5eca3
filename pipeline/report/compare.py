"""What differs between two runs, stage by stage: settings, data and results."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.report.catalogue import Better, meaning, parse, pretty
from pipeline.report.page import page
from pipeline.report.reading import Run, Stage, Tie, read_run
from pipeline.store import Own

CONTEXT = ("require",)
"""Settings that say whether, not what; they change no result."""


@dataclass(frozen=True)
class Change:
    """One value in both runs; None where a run does not have it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Measure:
    """One final number in both runs."""

    name: str
    a: float | None
    b: float | None
    better: Better

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def verdict(self) -> str:
        """`better` or `worse` for the second run; empty where that cannot be said."""
        if not self.difference or not self.better:
            return ""
        return "better" if (self.difference > 0) == (self.better == "up") else "worse"

    @property
    def told(self) -> tuple[str, str, str]:
        """Both values and their difference as text."""
        unit = meaning(self.name).unit
        sign = "+" if (self.difference or 0) > 0 else ""
        return pretty(self.a, unit), pretty(self.b, unit), "" if self.difference is None else sign + pretty(self.difference, unit)


@dataclass(frozen=True)
class StageComparison:
    """One stage name in both runs."""

    name: str
    kind: str
    where: str
    """`both`, or the run that alone has it: `a` or `b`."""
    same: bool
    """Whether both computed the very same thing."""
    settings: list[Change]
    data: list[Change]
    results: list[Measure]


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other."""

    a: str
    b: str
    overall: list[Change]
    stages: list[StageComparison]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told = asdict(self)
        for stage, plain in zip(self.stages, told["stages"], strict=True):
            for measure, record in zip(stage.results, plain["results"], strict=True):
                record |= {"difference": measure.difference, "verdict": measure.verdict}
        return told


def compare(a: Path, b: Path, own: tuple[Own | None, Own | None] = (None, None)) -> Comparison:
    """Compare two run directories, or what recipes mean in them. Raises RecipeError where one is none."""
    first, second = read_run(a, own[0]), read_run(b, own[1])
    names = [stage.name for stage in first.stages] + [stage.name for stage in second.stages if first[stage.name] is None]
    labels = (first.name, second.name) if first.name != second.name else (_label(a, own[0]), _label(b, own[1]))
    return Comparison(*labels, list(_overall(first, second)), [_stage(name, first[name], second[name]) for name in names])


def _label(folder: Path, own: Own | None) -> str:
    return f"{folder}, by its recipe" if own else str(folder)


def _overall(a: Run, b: Run) -> Iterator[Change]:
    for name, left, right in (("seed", a.seed, b.seed), ("overrides", ", ".join(a.overrides), ", ".join(b.overrides))):
        if left != right:
            yield Change(name, left, right)


def _stage(name: str, a: Stage | None, b: Stage | None) -> StageComparison:
    one = a or b
    assert one is not None  # noqa: S101 - a name comes from one of the two
    if a is None or b is None:
        return StageComparison(name, one.kind, "b" if a is None else "a", False, [], [], list(_results(a, b)))
    same = bool(a.fingerprint) and a.fingerprint.partition(".")[0] == b.fingerprint.partition(".")[0]
    return StageComparison(name, one.kind, "both", same, list(_settings(a, b)), list(_data(a, b)), list(_results(a, b)))


def _settings(a: Stage, b: Stage) -> Iterator[Change]:
    left, right = dict(leaves(a.settings)), dict(leaves(b.settings))
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name) and name.split(".")[0] not in CONTEXT:
            yield Change(name, left.get(name), right.get(name))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of nested settings by its dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        inner = f"{path}.{key}".strip(".")
        if isinstance(item, dict | list | tuple) and item:
            yield from leaves(item, inner)
        else:
            yield inner, item


def _data(a: Stage, b: Stage) -> Iterator[Change]:
    """What the stages were made from: references and contents that differ, data and models alike."""
    left, right = ({tie.role: tie for tie in stage.ties} for stage in (a, b))
    for role in [*left, *(role for role in right if role not in left)]:
        first, second = left.get(role), right.get(role)
        if _content(first) != _content(second):
            yield Change(role, _origin(first), _origin(second))


def _content(tie: Tie | None) -> tuple[str, str, str] | None:
    """What makes an input the same; its size alone does not, since files may be gone by now."""
    return None if tie is None else (tie.reference, tie.path, tie.fingerprint[:12])


def _origin(tie: Tie | None) -> str | None:
    """An input as text: `world / stories.jsonl 96a1aa8281c1, 1.93 MiB`."""
    if tie is None:
        return None
    inside = f" / {tie.path}" if tie.path and tie.path != tie.reference else ""
    size = f", {pretty(float(tie.size), 'B')}" if tie.size is not None else ""
    return f"{tie.reference}{inside} {tie.fingerprint[:12]}".strip() + size


def _results(a: Stage | None, b: Stage | None) -> Iterator[Measure]:
    left, right = a.metrics if a else {}, b.metrics if b else {}
    for name in [*left, *(name for name in right if name not in left)]:
        # A distribution's deviation or a share of a group has its parent's name, but not its direction.
        better = meaning(name).better if not parse(name).part.startswith(("std", "before", "mean")) else ""
        yield Measure(name, left.get(name), right.get(name), better)
    if a and b and a.seconds is not None and b.seconds is not None:
        yield Measure("seconds", a.seconds, b.seconds, "down")


def as_table(found: Comparison) -> Table:
    """The comparison for a terminal. Values are plain text: what looks like markup in them is shown, not obeyed."""
    table = Table(title=Text(f"{found.a} and {found.b}"), header_style="bold")
    for heading in ("", found.a, found.b, "difference"):
        table.add_column(Text(heading), justify="left" if not heading else "right", no_wrap=not heading, overflow="fold")
    for change in found.overall:
        table.add_row(*map(Text, (change.name, said(change.a), said(change.b), "")))
    for stage in found.stages:
        table.add_section()
        state = {"a": f"only in {found.a}", "b": f"only in {found.b}"}.get(stage.where, "the same" if stage.same else "")
        table.add_row(Text(f"{stage.name} ({stage.kind})", style="bold"), "", "", Text(state))
        for change in [*stage.settings, *stage.data]:
            table.add_row(*map(Text, (f"  {change.name}", said(change.a), said(change.b), "")))
        for measure in stage.results if not stage.same else ():
            style = {"better": "green", "worse": "red"}.get(measure.verdict, "")
            first, second, difference = measure.told
            table.add_row(Text(f"  {meaning(measure.name).label}"), first, second, Text(difference, style=style))
    return table


def said(value: Any) -> str:
    """A setting as text."""
    return "–" if value is None else str(value)


def as_html(found: Comparison) -> str:
    """The comparison as one self-contained page."""
    return page("compare.html.jinja", found=found, said=said, meaning=meaning)
