"""What a model card says of a stage, gathered from its files and from those of its ancestors: plain values, nothing rendered yet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.publish.finished import Finished, evaluations

HUB = "hub:"
HELD_OUT = re.compile(r"held_out_|validation_|accuracy(_|$)|(perplexity|bits_per_byte|bytes_per_token)$")
"""Names of metrics that stages measure on held-out data; all others tell of the training."""
SAMPLES = "samples.md"
WATTS_A_CORE = 10
"""Of a busy server core, its share of cache, memory and power supply included: 280 to 400 W for 32 to 64 cores by the makers' data sheets."""
LONGEST_SAMPLES = 6000
"""Characters."""


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
    from stages.core.files import digest as file_digest

    return Datum(field, file.name, file.stat().st_size, file_digest(file))


def _hub_sources(field: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [one for key, inner in value.items() for one in _hub_sources(f"{field}.{key}" if field else str(key), inner)]
    if isinstance(value, list):
        return [one for n, inner in enumerate(value) for one in _hub_sources(f"{field}.{n}", inner)]
    return [(field, value)] if isinstance(value, str) and value.startswith(HUB) and field.endswith(".path") else []


def scores(stage: Finished) -> list[Score]:
    """What was measured on data that the stage did not learn from: by itself, and by evaluations of this very result (`stage.quantity`)."""
    found = [Score(stage.name, name, value) for name, value in sorted(stage.metrics.items()) if HELD_OUT.match(name)]
    for report in evaluations(stage):
        # Names of stages may hold dots: `a.b.kl` is of `a.b` where there is such a stage.
        others = [origin.reference for origin in report.origins if origin.reference.startswith(f"{stage.name}.")]
        for name, value in sorted(report.metrics.items()):
            if name.startswith(f"{stage.name}.") and not any(name.startswith(f"{other}.") for other in others):
                found.append(Score(report.name, name.removeprefix(f"{stage.name}."), value))
    return found


def training_numbers(stage: Finished) -> list[Score]:
    """The stage's other numbers: the state of its training at the end, which is no evaluation."""
    return [Score(stage.name, name, value) for name, value in sorted(stage.metrics.items()) if not HELD_OUT.match(name)]


def samples(stage: Finished) -> list[tuple[str, str]]:
    """Pages of answers side by side, by the evaluation that drew them; cut to what a card can bear."""
    pages = [(report.name, report.folder.artifact / SAMPLES) for report in evaluations(stage)]
    return [
        (name, _cut(page.read_text(encoding="utf-8", errors="replace"))) for name, page in pages if page.is_file() and not page.is_symlink()
    ]


def _cut(text: str) -> str:
    if len(text) <= LONGEST_SAMPLES:
        return text
    return text[:LONGEST_SAMPLES].rsplit("\n", 1)[0] + "\n…"


def surroundings(stage: Finished) -> dict[str, Any]:
    """Versions, hardware and commit of the last attempt, as the manifest holds them."""
    return dict(stage.manifest.get("surroundings") or {})


def seconds(stage: Finished) -> float | None:
    """Time in all attempts, where it was noted."""
    noted = stage.manifest.get("seconds")
    return float(noted) if isinstance(noted, int | float) else None


def energy(stage: Finished) -> str | None:
    """What the training took at most, from hours and the power of what it ran on; None where hours were not noted."""
    took, noted = seconds(stage), surroundings(stage)
    hardware = noted.get("hardware") or {}
    if took is None:
        return None
    devices = noted.get("gpus") or []
    if devices:
        watts, what = sum(float(one["watts"]) for one in devices), f"the power limits of {len(devices)} × {devices[0]['name']}"
    elif hardware.get("gpus"):
        return "not estimated: the power of the GPUs was not noted"
    else:
        used = (hardware.get("threads") or 0) * (hardware.get("processes") or 1) or noted.get("cores")
        if not used:
            return "not estimated: the cores were not noted"
        watts, what = used * WATTS_A_CORE, f"{WATTS_A_CORE} W for each of {used} CPU cores"
    hours = took / 3600
    return f"at most about {hours * watts:,.3g} Wh: {hours:.3g} h at {what}; an estimate, not a measurement"


def recipe_of(stage: Finished) -> str | None:
    """The recipe's text and the overrides that were given."""
    noted = stage.run.recipe()
    return None if noted is None else "\n".join([noted[0].rstrip(), *(f"# with {override}" for override in noted[1])])


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
