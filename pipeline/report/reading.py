"""A run as the report sees it: plain records read from the files of a run directory. Missing or torn files leave gaps, never an error."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import lock, store
from pipeline.errors import RecipeError
from pipeline.report.series import Curves, read_curves
from stages.contract import INTERRUPTED

State = Literal["done", "running", "interrupted", "failed", "waiting"]


@dataclass(frozen=True)
class Tie:
    """One thing that a stage was made from."""

    role: str
    """Dotted field path in the recipe: `model`, `rewards.0.model`, `data.0`."""
    reference: str
    """As the recipe says it: a stage, a folder, `hub:owner/name`."""
    fingerprint: str = ""
    weight: float | None = None
    is_data: bool = False
    path: str = ""
    """Where in the reference the data lie."""
    size: int | None = None
    """Bytes of the data; None where they are no longer there, or never were on this machine."""

    @property
    def kind(self) -> str:
        return "data" if self.is_data else "model" if self.role.split(".")[0] in ("model", "models") else "part"


@dataclass(frozen=True)
class Attempt:
    """One start of a stage's process."""

    number: int
    code: int | None
    seconds: float | None
    how: str = ""
    """In words, as the orchestrator saw it end."""
    last_words: str = ""
    """Last line of the log, where the attempt failed."""


@dataclass(frozen=True)
class Grid:
    """A table as a stage gave it."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Stage:
    """One stage and its current result."""

    name: str
    kind: str
    state: State
    fingerprint: str = ""
    folder: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings as they were run: validated, with defaults."""
    written: dict[str, Any] = field(default_factory=dict)
    """Settings as the recipe says them."""
    ties: tuple[Tie, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    tables: tuple[Grid, ...] = ()
    notes: tuple[str, ...] = ()
    curves: Curves = field(default_factory=Curves)
    attempts: tuple[Attempt, ...] = ()
    seconds: float | None = None
    finished: str = ""
    artifact: dict[str, Any] = field(default_factory=dict)
    files: int = 0
    size: int = 0
    earlier: tuple[str, ...] = ()
    """Fingerprints of other results of this stage that the run keeps."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    commit: str = ""


@dataclass(frozen=True)
class Run:
    """A run directory, read."""

    name: str
    folder: Path
    seed: int | None
    recipe: str
    """Text of the recipe as it was given."""
    overrides: tuple[str, ...]
    stages: tuple[Stage, ...]

    def __getitem__(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds or 0.0 for stage in self.stages)

    def parents(self) -> dict[str, dict[str, str]]:
        """For each stage the stages above it that it takes from, with the kind of the tie; a model outweighs data."""
        names = {stage.name for stage in self.stages}
        found: dict[str, dict[str, str]] = {}
        for stage in self.stages:
            ties = found.setdefault(stage.name, {})
            for tie in sorted(stage.ties, key=lambda tie: ("data", "part", "model").index(tie.kind)):
                if tie.reference in names - {stage.name}:
                    ties[tie.reference] = tie.kind
        return found


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_run(folder: Path, own: store.Own | None = None) -> Run:
    """Everything that the report tells of a run; with `own`, of one recipe's results in it. Raises RecipeError if the folder holds no recipe and no stage."""
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder; a run directory is what `pipeline run` made, such as runs/demo.")
    run = store.Run(folder, own)
    recipe = own.text if own else _text(folder / "recipe.yaml")
    head = _yaml(recipe)
    written = _mapping(head.get("stages"))
    names = list(written) + [name for name in _links(run) if name not in written]
    if not names:
        raise RecipeError(f"{folder}: neither recipe.yaml nor a stage's folder is here; name a run directory, such as runs/demo.")
    held = lock.is_held(run.lock)
    stages = tuple(_stage(run, str(name), _mapping(written.get(name)), held=held) for name in names)
    overrides = own.overrides if own else _overrides(folder)
    seed = next((_number(text[5:]) for text in reversed(overrides) if text.startswith("seed=")), head.get("seed"))
    return Run(folder.resolve().name, folder, seed if isinstance(seed, int) else None, recipe, overrides, stages)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _yaml(text: str) -> dict[str, Any]:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _overrides(folder: Path) -> tuple[str, ...]:
    given = load_json(folder / "overrides.json").get("overrides")
    return tuple(str(item) for item in given) if isinstance(given, list) else ()


def _links(run: store.Run) -> list[str]:
    """Names of the stages that have a current result."""
    return [name for name in run.named() if (folder := run.current(name)) is not None and (folder.path / "job.json").exists()]


def current_folder(run: store.Run, name: str) -> Path | None:
    """Folder of a stage's current result: where its link points, or else the newest folder of its name that was begun."""
    current = run.current(name)
    if current is not None:
        return current.path
    if run.own is not None:
        return None
    begun = [folder.path for folder in run.folders() if _fingerprint(folder.path, name) and (folder.path / "job.json").exists()]
    return max(begun, key=lambda path: (path / "job.json").stat().st_mtime, default=None)


def _fingerprint(folder: Path, name: str) -> str:
    tail = folder.name.removeprefix(f"{name}-")
    return tail if folder.name != tail and re.fullmatch(r"[0-9a-f]{8,64}(\.\d+)?", tail) else ""  # `.1` was set aside by a rerun


def _stage(run: store.Run, name: str, written: dict[str, Any], *, held: bool) -> Stage:
    kind = str(written.get("kind", ""))
    folder = current_folder(run, name)
    if folder is None:
        return Stage(name, kind, "waiting", settings=written, written=written, ties=tuple(_written_ties(written)))
    job, result, manifest = (load_json(folder / f"{file}.json") for file in ("job", "result", "manifest"))
    attempts = tuple(_attempts(folder))
    around = _mapping(manifest.get("surroundings")) or (load_json(folder / f"attempts/{attempts[-1].number}/env.json") if attempts else {})
    curves = read_curves(folder / "metrics.jsonl")
    others = (_fingerprint(path, name) for path in sorted(run.path.glob(f"{name}-*")) if path.name != folder.name)
    files, size = _files(manifest, folder)
    settings = _mapping(job.get("config")) or written
    return Stage(
        name=name,
        kind=str(job.get("kind") or kind),
        state=_state(manifest, attempts, held=held),
        fingerprint=_fingerprint(folder, name) or str(manifest.get("fingerprint", "")),
        folder=folder,
        settings=settings,
        written=written,
        ties=tuple(_ties(job, settings, manifest)),
        metrics=_floats(result.get("metrics") or manifest.get("metrics")),
        steps=int(result.get("steps") or 0),
        tables=tuple(_grids(result.get("tables"))),
        notes=tuple(str(note) for note in result.get("notes") or ()),
        curves=curves,
        attempts=attempts,
        seconds=_seconds(manifest, attempts, curves),
        finished=str(manifest.get("finished") or ""),
        artifact=load_json(folder / "artifact" / "artifact.json"),
        files=files,
        size=size,
        earlier=tuple(filter(None, others)),
        versions=_strings(around.get("versions")),
        hardware=_hardware(around),
        commit=str(around.get("commit") or ""),
    )


def _state(manifest: dict[str, Any], attempts: tuple[Attempt, ...], *, held: bool) -> State:
    if manifest:
        return "done"
    open_attempt = not attempts or attempts[-1].code is None
    if held and open_attempt:
        return "running"
    return "interrupted" if open_attempt or attempts[-1].code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM) else "failed"


def _ties(job: dict[str, Any], settings: dict[str, Any], manifest: dict[str, Any]) -> Iterator[Tie]:
    inputs = _mapping(job.get("inputs"))
    for role, given in inputs.items():
        if isinstance(given, dict):
            reference, fingerprint = str(given.get("reference", "")), str(given.get("fingerprint", ""))
            if given.get("kind") == "dataset":
                source, place = _at(settings, role), role.removesuffix(".stage")
                where = str(source.get("path", ""))
                yield Tie(place, reference, fingerprint, source.get("weight"), True, where, _bytes(job, place))
            else:
                yield Tie(role, reference, fingerprint)
    identity = _mapping(_mapping(manifest.get("identity")).get("config"))
    for tie in _written_ties(settings):
        if tie.is_data and not {tie.role, f"{tie.role}.stage"} & set(inputs):
            content = _at(identity, tie.role)
            digest = next((str(content[key]) for key in ("content", "digest", "files", "hub") if isinstance(content.get(key), str)), "")
            yield replace(tie, fingerprint=digest, size=_bytes(job, tie.role))


def _bytes(job: dict[str, Any], role: str) -> int | None:
    """Bytes of the local files of a source."""
    named = _mapping(job.get("files")).get(role)
    try:
        return sum(Path(file).stat().st_size for file in named) if isinstance(named, list) and named else None
    except (OSError, TypeError):
        return None


def _at(settings: Any, path: str) -> dict[str, Any]:
    for part in path.removesuffix(".stage").split("."):
        if isinstance(settings, list | tuple) and part.isdecimal() and int(part) < len(settings):
            settings = settings[int(part)]
        else:
            settings = settings.get(part) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


def _written_ties(settings: Any, role: str = "") -> Iterator[Tie]:
    """What the settings alone say of a stage's inputs: sources of data, and fields that name a model."""
    items = settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list | tuple) else ()
    for key, value in items:
        path = f"{role}.{key}".strip(".")
        last = [part for part in path.split(".") if not part.isdecimal()][-1]
        if isinstance(value, dict) and (value.get("path") or value.get("stage")):
            origin = value.get("stage") or value["path"]
            yield Tie(path, str(origin), "", value.get("weight"), True, str(value.get("path") or ""))
        elif isinstance(value, str) and last in ("model", "models", "tokenizer", "critic", "baseline"):
            yield Tie(path, value)
        elif isinstance(value, dict | list | tuple):
            yield from _written_ties(value, path)


def _attempts(folder: Path) -> Iterator[Attempt]:
    for attempt in store.StageFolder(folder).attempts():
        ended = load_json(attempt.folder / "exit.json")
        code, seconds = ended.get("code"), ended.get("seconds")
        words = _text(attempt.log).strip().rsplit("\n", 1)[-1] if code not in (0, None) else ""
        yield Attempt(
            attempt.number,
            code if isinstance(code, int) else None,
            float(seconds) if isinstance(seconds, int | float) else None,
            str(ended.get("how") or ""),
            words[:500],
        )


def _hardware(around: dict[str, Any]) -> dict[str, str]:
    """What the stage ran on, as far as it tells a reader something; never the machine's name."""
    told = {name: around.get(name) for name in ("machine", "cores", "python")} | _mapping(around.get("hardware"))
    return {name: str(value) for name, value in told.items() if value is not None and not isinstance(value, dict | list)}


def _seconds(manifest: dict[str, Any], attempts: tuple[Attempt, ...], curves: Curves) -> float | None:
    if isinstance(manifest.get("seconds"), int | float):
        return float(manifest["seconds"])
    timed = [attempt.seconds for attempt in attempts if attempt.seconds is not None]
    if timed:
        return float(sum(timed))
    logged = curves["seconds"]
    return logged.last if logged else None


def _files(manifest: dict[str, Any], folder: Path) -> tuple[int, int]:
    files = manifest.get("files")
    records = list(files.values()) if isinstance(files, dict) else files if isinstance(files, list) else []
    sizes = [size for record in records if isinstance(record, dict) and isinstance(size := record.get("size"), int)]
    if not sizes:
        sizes = [path.stat().st_size for path in (folder / "artifact").rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _floats(value: object) -> dict[str, float]:
    return {str(name): float(number) for name, number in _mapping(value).items() if isinstance(number, int | float)}


def _strings(value: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in _mapping(value).items() if not isinstance(text, dict | list)}


def _grids(tables: object) -> Iterator[Grid]:
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and isinstance(table.get("columns"), list) and isinstance(table.get("rows"), list):
            rows = [row for row in table["rows"] if isinstance(row, list)]
            yield Grid(str(table.get("title", "")), [str(column) for column in table["columns"]], rows)
