"""The page: one HTML file with everything in it, small enough to send, that asks no network for anything."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.catalogue import KNOWN, duration, grouped, meaning, parse, pretty
from pipeline.report.charts import Chart, stage_chart
from pipeline.report.costs import costs
from pipeline.report.evaluation import Outcome, outcomes
from pipeline.report.family import TALL, WIDE, Box, Sizes, Tree, draw
from pipeline.report.findings import findings
from pipeline.report.on_the_way import Thread, threads
from pipeline.report.outcome_plots import ways
from pipeline.report.reading import Run, Stage, Tie, read_run
from pipeline.store import Own
from pipeline.store import Run as StoredRun
from stages.core.files import write_text

WHOLE, RECIPES_OWN = "report.html", "report-recipe.html"
"""Pages in a run's folder: of what the run holds, and of a recipe's own results where that is something else."""
SIZE_LIMIT = 3_000_000
"""Bytes of a page."""
POINTS = 40_000
"""Points of all curves together, to begin with."""
TILES = 14
"""Numbers of a stage that stand on top; the others are in a table that unfolds."""
ROWS = 200
"""Rows of one table that are shown."""

HEADLINES = {
    "tokenizer": ("bytes_per_token",),
    "pretrain": ("bits_per_byte", "perplexity", "validation_loss", "loss"),
    "sft": ("validation_loss", "loss"),
    "reward": ("accuracy",),
    "ppo": ("held_out_truth", "held_out_reward", "validation_reward", "reward"),
}
"""The number of a stage that stands in the family tree: the first that it has."""


def write_report(folder: Path, out: Path | None = None, own: Own | None = None) -> Path:
    """Write the report of a run, or of one recipe's own results in it, by default beside its stages, and return where. Raises RecipeError if the folder is no run.

    The page of a recipe whose run holds other results by now is one of its own: it does not take the place of theirs.
    """
    page = render(read_run(folder, own))
    target = out or folder / (RECIPES_OWN if StoredRun(folder, own).holds_others() else WHOLE)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def render(run: Run, *, live: bool = False, points: int = POINTS, samples: int = 40) -> str:
    """The page of a run. Curves are thinned further and samples dropped until it keeps the size limit."""
    while True:
        page = _render(run, live=live, points=points, samples=samples)
        if len(page.encode()) < SIZE_LIMIT or (points < 500 and samples <= 1):
            return page
        points, samples = points // 2, max(samples // 2, 1)


@dataclass(frozen=True)
class Section:
    """A stage with its charts, ready for the template."""

    stage: Stage
    groups: list[tuple[str, list[Chart]]]
    constant: list[tuple[str, str]]
    """Label and value of what never changed: a flat line tells no more."""
    threads: list[Thread]
    """What it said on the way."""
    data: list[Tie]
    shares: dict[str, float]
    """Of the bytes that a field's sources bring, times their weights, by the source's field path."""
    lineage: list[str]
    commands: list[tuple[str, str]]

    @property
    def key(self) -> str:
        return f"stage-{self.stage.name}"

    @property
    def tiles(self) -> list[str]:
        """Names of the numbers that stand on top: all of a few; of many those on held-out data first, and no parts."""
        names = list(self.stage.metrics)
        if len(names) <= TILES:
            return names
        whole = [name for name in names if not parse(name).part]
        return sorted(whole, key=lambda name: not parse(name).held_out)[:TILES]


def _render(run: Run, *, live: bool, points: int, samples: int) -> str:
    series = sum(len(stage.curves.series) for stage in run.stages)
    limit = max(20, min(800, points // max(series, 1)))
    sections = [section(run, stage, limit) for stage in run.stages]
    charts = {chart.key: chart.data() for part in sections for _, group in part.groups for chart in group}
    ends: list[Outcome] = outcomes(run, samples)
    return page(
        "page.html.jinja",
        run=run, sections=sections, outcomes=ends, ways=ways(run), costs=costs(run), findings=findings(run), charts=charts, live=live, headline=headline, rows=ROWS,
        trees=[("wide", *_tree(run, WIDE)), ("tall", *_tree(run, TALL))],
    )  # fmt: skip


def page(template: str, **context: Any) -> str:
    """Fill a template. Style and script stand in the page, and the content policy allows exactly them, by their hashes."""
    style, script = (Markup(_asset(name)) for name in ("style.css", "script.js"))  # noqa: S704 our own files, not data
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    if context.get("live"):
        policy += "; connect-src 'self'"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment().get_template(template).render(style=style, script=script, policy=policy, made=made, **context)


@cache
def environment() -> Environment:
    """Everything is escaped; a name that the template misspells is an error."""
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_asset))
    env.filters.update(
        pretty=pretty,
        duration=duration,
        meaning=meaning,
        cell=cell,
        clip=clip,
        tick=tick,
        digits=digits,
        settings=settings,
        interval=interval,
    )
    return env


def _asset(name: str) -> str:
    return (files("pipeline.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def cell(value: Any) -> str:
    """A table cell as text."""
    return pretty(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else "–" if value is None else str(value)


def interval(text: str) -> tuple[str, str]:
    """`0.74 (0.69 to 0.79)` as its value and its interval, so that the value is seen first."""
    match = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", text)
    if match is None:
        return text, ""
    value, low, high = (_aligned(part) for part in match.groups())
    return value, f"{low} to {high}"


def _aligned(number: str) -> str:
    """A number with as many places as its neighbours in the column: three figures, and of what is below one three places."""
    try:
        value = float(number)
    except ValueError:
        return number
    if not math.isfinite(value):
        return number
    return f"{value:.{max(0, 3 - len(str(int(abs(value))).lstrip('0')))}f}"


def tick(value: float, unit: str, digits: int = 4) -> str:
    """An axis label: as short as the value allows."""
    if unit == "%":
        return f"{100 * value:.6g}%"
    return f"{value:.{digits}g}".replace("e-0", "e-") if abs(value) < 1e4 else pretty(value)


def digits(ticks: Sequence[tuple[float, float]]) -> int:
    """Figures that it takes to tell the ticks of an axis apart, four at least."""
    return next((count for count in range(4, 7) if len({f"{value:.{count}g}" for value, _ in ticks}) == len(ticks)), 7)


def settings(value: dict[str, Any]) -> str:
    """Settings as indented text; the template escapes it. Absolute paths keep their last two parts: a page is passed on, a machine is not."""
    return json.dumps(_shortened(value), indent=2, ensure_ascii=False, default=str)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    absolute = isinstance(value, str) and value.startswith("/") and value.count("/") > 2
    return "…/" + "/".join(value.rsplit("/", 2)[-2:]) if absolute else value


def clip(text: str, limit: int) -> str:
    """A text that fits a box of the drawing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def section(run: Run, stage: Stage, limit: int) -> Section:
    """Everything that the page tells of one stage. All charts of a stage share their range of steps, so that they zoom together."""
    steps = [step for series in stage.curves.series for step in series.steps]
    whole = (min(steps), max(steps)) if steps else None
    groups, constant = [], []
    for index, (name, charts) in enumerate(grouped(series.name for series in stage.curves.series)):
        drawn = []
        for number, names in enumerate(charts):
            held = [series for series in stage.curves.series if series.name in names]
            if all(series.constant and series.values and not series.non_finite for series in held):
                constant += [(meaning(series.name).label, pretty(series.last, meaning(series.name).unit)) for series in held]
            else:
                drawn.append(stage_chart(f"{stage.name}-{index}-{number}", names, stage.curves, limit, whole))
        groups += [(name, drawn)] if drawn else []
    data = [tie for tie in stage.ties if tie.is_data]
    return Section(stage, groups, constant, threads(stage), data, composition(data), lineage(run, stage.name), commands(run, stage))


def composition(data: Sequence[Tie]) -> dict[str, float]:
    """Each source's share of its field: `data.0` and `data.1` together make `data`. A field with a source of unknown size has none."""
    fields: dict[str, list[Tie]] = {}
    for tie in data:
        fields.setdefault(tie.role.rpartition(".")[0], []).append(tie)
    found: dict[str, float] = {}
    for ties in fields.values():
        weighed = [float(tie.size or 0) * (1.0 if tie.weight is None else tie.weight) for tie in ties]
        whole = sum(weighed)
        if whole and all(tie.size is not None for tie in ties):
            found |= {tie.role: weight / whole for tie, weight in zip(ties, weighed, strict=True)}
    return found


def headline(stage: Stage) -> tuple[str, str]:
    """Label and value of the number that says most about a stage."""
    for name in HEADLINES.get(stage.kind, ()):
        if name in stage.metrics:
            return _short(name, stage.metrics[name])
    for name in HEADLINES.get(stage.kind, ()):
        series = stage.curves[name]
        if series is not None and series.last is not None:
            return _short(name, series.last)
    return "", ""


def _short(name: str, value: float) -> tuple[str, str]:
    told = meaning(name)
    named = parse(name)
    label = f"held-out {KNOWN[named.base].label}" if named.held_out and not named.part and named.base in KNOWN else told.label
    return label.lower(), pretty(value, "%" if told.unit == "%" else "")


def lineage(run: Run, name: str) -> list[str]:
    """The stage's line of models and what they began from, oldest first, the stage itself last."""
    line, parents = [name], run.parents()
    while True:
        models = [parent for parent, kind in parents.get(line[0], {}).items() if kind == "model"]
        others = [parent for parent, kind in parents.get(line[0], {}).items() if kind == "part"]
        above = (models or others)[-1:]  # of a family, the youngest
        if not above or above[0] in line:
            return line
        line = [*above, *line]


def commands(run: Run, stage: Stage) -> list[tuple[str, str]]:
    """Commands to go on from a stage, with what each does. Relative paths only, so that a page can be passed on."""
    where = f"runs/{run.folder.resolve().name}"
    makes = stage.artifact.get("kind")
    # The run's folder stands for what its links point to; another recipe's result is reached by its own folder alone.
    linked = stage.folder is None or (run.folder / stage.name).resolve() == stage.folder.resolve()
    place = stage.name if linked or stage.folder is None else stage.folder.name
    going = []
    if stage.state in ("failed", "interrupted"):
        going.append(("Go on where it stopped", f"pipeline run {where}"))
    if makes == "causal-lm":
        going += [
            ("Talk to it", f"pipeline chat {where} {stage.name}"),
            ("Load it", f'AutoModelForCausalLM.from_pretrained("{where}/{place}/artifact")'),
        ]
    if makes == "reward-model":
        going.append(("Load it", f'AutoModelForSequenceClassification.from_pretrained("{where}/{place}/artifact")'))
    if makes in ("causal-lm", "reward-model"):
        going.append(("Publish it", f"pipeline publish {where} {stage.name} --dry-run"))
    if stage.state == "done":
        going.append(("Do it again", f"pipeline run {where} --redo {stage.name}"))
    return going if linked else [(what, how) for what, how in going if what == "Load it"]


def _tree(run: Run, sizes: Sizes) -> tuple[Tree, Sequence[tuple[Box, Stage]]]:
    tree = draw(run.parents(), sizes)
    stages = {stage.name: stage for stage in run.stages}
    return tree, [(box, stages[box.name]) for box in tree.boxes]
