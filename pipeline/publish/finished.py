"""A finished stage of a run, with everything its model card tells: read from the run directory through the store."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.artifacts import inspect
from pipeline.errors import suggestion
from pipeline.publish.errors import ChoiceError, PublishError
from pipeline.publishing import PUBLISHABLE
from pipeline.store import Run, StageFolder, read_json
from stages.contract import Artifact, Table


@dataclass(frozen=True)
class Origin:
    """An artifact that a stage was made from."""

    field: str
    reference: str
    fingerprint: str
    digest: str | None


@dataclass(frozen=True)
class Finished:
    """One stage that is done."""

    run: Run
    name: str
    folder: StageFolder
    manifest: dict[str, Any]
    artifact: Artifact

    @property
    def fingerprint(self) -> str:
        return str(self.manifest.get("fingerprint") or self.folder.path.name.removeprefix(f"{self.name}-"))

    @property
    def digest(self) -> str:
        return str(self.manifest.get("digest", ""))

    @property
    def kind(self) -> str:
        return str(self.identity.get("kind") or self.job.get("kind") or "")

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self.manifest.get("identity") or {})

    @cached_property
    def job(self) -> dict[str, Any]:
        return read_json(self.folder.path / "job.json") or {}

    @cached_property
    def result(self) -> dict[str, Any]:
        return self.folder.result() or {}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings as the stage's configuration validated them."""
        return dict(self.job.get("config") or self.identity.get("config") or {})

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.manifest.get("metrics") or self.result.get("metrics") or {})

    @property
    def tables(self) -> list[Table]:
        return [Table.model_validate(table) for table in self.result.get("tables", [])]

    @property
    def notes(self) -> list[str]:
        return [str(note) for note in self.result.get("notes", [])]

    @property
    def origins(self) -> list[Origin]:
        """By field, each reference once a field."""
        stated, ordered = self.manifest.get("inputs") or {}, self.job.get("inputs") or {}
        found = []
        for field in {**ordered, **stated}:
            entry = {**ordered.get(field, {}), **stated.get(field, {})}
            found.append(Origin(field, str(entry.get("reference", field)), str(entry.get("fingerprint", "")), entry.get("digest")))
        return found

    def made_from(self, origin: Origin) -> "Finished | None":
        """The stage of the same run behind an origin, if it is still there."""
        folder = self.run.folder(origin.reference, origin.fingerprint)
        return _opened(self.run, origin.reference, folder) if folder.path.is_dir() else None

    def ancestors(self) -> list["Finished"]:
        """Every stage of the run that this one comes from, oldest first."""
        found: dict[str, Finished] = {}
        for origin in self.origins:
            parent = self.made_from(origin)
            if parent is not None:
                for one in [*parent.ancestors(), parent]:
                    found.setdefault(one.folder.path.name, one)
        return list(found.values())

    def replaced(self) -> dict[str, str]:
        """By stage that this one was made from, directly or not: a clause on what the run holds in place of that result now. Empty where it holds all of them."""
        found: dict[str, str] = {}
        for origin in self.origins:
            if (told := self._instead(origin)) is not None:
                found.setdefault(origin.reference, told)
            if (parent := self.made_from(origin)) is not None:
                found = {**parent.replaced(), **found}
        return found

    def _instead(self, origin: Origin) -> str | None:
        made_from, current = self.run.folder(origin.reference, origin.fingerprint), self.run.current(origin.reference)
        if current is None:  # no stage of this run, or none that has a result
            return None
        if current.path.name != made_from.path.name:
            return f"{made_from.path.name}, in whose place {self.run.path} holds {current.path.name} now"
        if origin.digest is not None and (current.manifest() or {}).get("digest") not in (None, origin.digest):
            return f"an earlier {made_from.path.name}, which has been made again since, with another result"
        return None


def together(chosen: list[Finished], named: Collection[str], say: Callable[[str], None]) -> list[Finished]:
    """Those that belong together. Of all that a run holds, what was made from another result of one of them is left out, and told of.

    Raises ChoiceError where such ones are named together.
    """
    names, kept = {one.name for one in chosen}, list[Finished]()
    for one in chosen:
        parted = {above: told for above, told in one.replaced().items() if above in names}
        if not parted:
            kept.append(one)
            continue
        run, told = one.run.path, f"'{one.name}' was made from {next(iter(parted.values()))}"
        again = f"to make it from that: pipeline run {run}"
        if named:
            raise ChoiceError(
                f"{told}: it does not belong to the '{next(iter(parted))}' that is named with it; {again}; or publish it alone"
            )
        say(f"left out: {told}; {again}; to publish it as it is: pipeline publish {run} {one.name}")
    return kept


def finished(run: Run, stages: Iterable[str]) -> list[Finished]:
    """The named stages' current results; every publishable one if none is named. Parents come before their children."""
    if not (path := run.path).is_dir():
        raise ChoiceError(
            f"there is no run {path}{suggestion(path.name, [entry.name for entry in path.parent.glob('*') if entry.is_dir()])}"
        )
    wanted, links = list(stages), run.named()
    found = [one for name in wanted or links if (one := _current(run, name, links, named=bool(wanted))) is not None]
    if not found:
        raise ChoiceError(f"{path}: no stage is done that could be published ({', '.join(PUBLISHABLE)})")
    return sorted({one.name: one for one in found}.values(), key=lambda one: (len(one.ancestors()), one.name))


def evaluations(stage: Finished) -> list[Finished]:
    """Current reports of the run that judged exactly this result."""
    reports = [_opened(stage.run, name, folder) for name in stage.run.named() if (folder := stage.run.current(name)) is not None]
    return [
        one
        for one in reports
        if one and one.artifact.kind == "report" and any(origin.fingerprint == stage.fingerprint for origin in one.origins)
    ]


def _current(run: Run, name: str, links: list[str], *, named: bool) -> Finished | None:
    folder = run.current(name)
    if folder is None:
        raise ChoiceError(
            run.lacks(name) or f"{run.path}: no stage '{name}' is there (done: {', '.join(links) or 'none'}){suggestion(name, links)}"
        )
    stage = _opened(run, name, folder)
    if not named:
        return stage if stage and stage.artifact.kind in PUBLISHABLE else None
    if stage is None:
        raise ChoiceError(run.lacks(name) or f"stage '{name}' is not done: {folder.path} has no manifest; run the recipe to its end first")
    if stage.artifact.kind not in PUBLISHABLE:
        raise ChoiceError(f"stage '{name}' makes a {stage.artifact.kind}; only {', '.join(PUBLISHABLE)} can be published")
    return stage


def _opened(run: Run, name: str, folder: StageFolder) -> Finished | None:
    manifest = folder.manifest()
    if manifest is None:
        return None
    artifact = inspect(folder.artifact)
    if isinstance(artifact, str):
        raise PublishError(artifact)
    return Finished(run, name, folder, manifest, artifact)
