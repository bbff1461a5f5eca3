"""What a model card says of a stage, gathered from its files and from those of its ancestors: plain values, nothing rendered yet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.publish.finished import Finished, evaluations
from pipeline.store import read_json
from stages.contract import Table

HUB = "hub:"


@dataclass(frozen=True)
class Score:
    """One number of the evaluation."""

    where: str
    """The stage that measured it."""
    metric: str
    value: float


@dataclass(frozen=True)
class Datum:
    """One file or source that a stage learned from."""

    field: str
    name: str
    size: int | None
    digest: str


def data_of(stage: Finished) -> list[Datum]:
    """Local files by name and content, sources inside earlier stages by their artifact, Hub data by commit. No path of this machine."""
    found = [_datum(stage, field, Path(file)) for field, files in sorted(stage.job.get("files", {}).items()) for file in files]
    for field, source in _hub_sources("", stage.settings):
        found.append(Datum(field, source.removeprefix(HUB), None, source.partition("@")[2].partition(":")[0] or "not pinned"))
    return found


def _datum(stage: Finished, field: str, file: Path) -> Datum:
    for parent in stage.ancestors():
        entry = parent.manifest["files"].get(f"artifact/{file.name}")
        if entry and file.parent.name == "artifact" and file.parent.parent.name == parent.folder.path.name:
            return Datum(field, f"{parent.name}/{file.name}", entry["size"], entry["sha256"])
    if not file.is_file():
        return Datum(field, file.name, None, "no longer there")
    from pipeline.artifacts import file_digest

    return Datum(field, file.name, file.stat().st_size, file_digest(file))


def _hub_sources(field: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [one for key, inner in value.items() for one in _hub_sources(f"{field}.{key}" if field else str(key), inner)]
    if isinstance(value, list):
        return [one for n, inner in enumerate(value) for one in _hub_sources(f"{field}.{n}", inner)]
    return [(field, value)] if isinstance(value, str) and value.startswith(HUB) and field.endswith(".path") else []


def scores(stage: Finished) -> list[Score]:
    """The stage's own final numbers, and its row in every table of an evaluation that judged this very result."""
    found = [Score(stage.name, name, value) for name, value in sorted(stage.metrics.items())]
    for report in evaluations(stage):
        for table in report.tables:
            found += _row(report.name, table, stage.name)
    return found


def _row(where: str, table: Table, stage: str) -> list[Score]:
    """Numbers of the first row whose first cell names the stage; of other tables nothing."""
    row = next((row for row in table.rows if row and row[0] == stage), None)
    if row is None:
        return []
    title = _slug(table.title)
    cells = zip(table.columns[1:], row[1:], strict=False)
    return [
        Score(where, f"{title}_{_slug(name)}" if title else _slug(name), float(value))
        for name, value in cells
        if isinstance(value, int | float)
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def surroundings(stage: Finished) -> dict[str, Any]:
    """Versions, hardware and commit of the last attempt, as the manifest holds them."""
    return dict(stage.manifest.get("surroundings") or {})


def seconds(stage: Finished) -> float | None:
    """Time in all attempts, where it was noted."""
    noted = stage.manifest.get("seconds")
    return float(noted) if isinstance(noted, int | float) else None


def recipe_of(stage: Finished) -> str | None:
    """The recipe's text and the overrides that were given."""
    file = stage.run.path / "recipe.yaml"
    if not file.is_file():
        return None
    given = (read_json(stage.run.path / "overrides.json") or {}).get("overrides") or []
    text = file.read_text(encoding="utf-8", errors="replace").rstrip()
    return "\n".join([text, *(f"# with {override}" for override in given)])


def without_places(value: Any, places: tuple[str, ...]) -> Any:
    """The value with absolute paths shortened to their last part, and folders of this machine taken out of longer text."""
    if isinstance(value, Mapping):
        return {key: without_places(one, places) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(one, places) for one in value]
    if not isinstance(value, str):
        return value
    if value.startswith("/") and "\n" not in value and value.count("/") > 1:
        return value.rsplit("/", 1)[1]
    for place in places:
        value = value.replace(place, "…")
    return value


def places_of(stage: Finished) -> tuple[str, ...]:
    """Folders that say more about this machine than about the model: longest first."""
    run = stage.run.path.resolve()
    found = {str(run), str(run.parent), str(Path.cwd()), str(Path.home())}
    return tuple(sorted((place for place in found if len(place) > 4), key=len, reverse=True))
