"""The plan: for each stage what `run` would do, and why. A pure function of the recipe and of the files on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import LaterFormatError, RecipeError, StoreError, suggestion
from pipeline.gates import missed_gates
from pipeline.identity import Identity, identities
from pipeline.lock import works_on
from pipeline.reasons import differences
from pipeline.recipe import Recipe
from pipeline.results import artifact_complaint
from pipeline.store import Run, StageFolder, age
from stages.core.config import StageConfig

Action = Literal["skip", "seal", "resume", "run", "blocked", "left out"]
"""`seal`: the stage finished while nobody watched; only its manifest is missing."""


@dataclass(frozen=True)
class Selection:
    """Which stages a command is about."""

    start: str | None = None
    until: str | None = None
    only: str | None = None
    redo: tuple[str, ...] = ()
    """Stages to run again though they are done."""

    def names(self, recipe: Recipe) -> list[str]:
        """Selected stages in order. Raises RecipeError for a name that is none."""
        names = list(recipe.stages)
        for given in (self.start, self.until, self.only, *self.redo):
            if given is not None and given not in names:
                raise RecipeError(f"no stage '{given}' in {recipe.file} (stages: {', '.join(names)}){suggestion(given, names)}")
        if self.only is not None and (self.start or self.until):
            raise RecipeError("--only is one stage alone: leave out --from and --until")
        first = names.index(self.only or self.start or names[0])
        last = names.index(self.only or self.until or names[-1])
        if first > last:
            raise RecipeError(f"'{self.start}' comes after '{self.until}': nothing lies between them")
        selected = names[first : last + 1]
        if idle := [given for given in self.redo if given not in selected]:
            raise RecipeError(f"--redo {idle[0]}: this stage is not among those selected ({', '.join(selected)})")
        return selected


@dataclass(frozen=True)
class Step:
    """One stage of the plan."""

    name: str
    config: StageConfig
    identity: Identity
    folder: StageFolder
    action: Action
    reason: str
    manifest: Mapping[str, Any] | None = None
    """Of a result that is whole."""
    missed: tuple[str, ...] = ()
    """Gates that the result misses, a clause each."""
    redo: bool = False
    """The result that is there is set aside first."""

    @property
    def kind(self) -> str:
        return str(self.config.model_dump(include={"kind"})["kind"])

    @property
    def works(self) -> bool:
        return self.action in ("run", "resume", "seal")


@dataclass(frozen=True)
class Plan:
    """Every stage of a recipe, in order."""

    recipe: Recipe
    run: Run
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


def make_plan(recipe: Recipe, run: Run, selection: Selection | None = None, known: Mapping[str, Identity] | None = None) -> Plan:
    """What `run` would do. Raises RecipeError if data or a selected name cannot be found."""
    selection = selection or Selection()
    selected = selection.names(recipe)
    known = known or identities(recipe, run.pins())
    steps: dict[str, Step] = {}
    gate: str | None = None
    for name in recipe.stages:
        step = _decide(recipe, run, name, known[name], steps, redo=name in selection.redo)
        if name not in selected:
            step = _left_out(step)
        elif gate is not None and step.works:
            step = _replace(step, "blocked", gate)
        elif (lost := _not_there(recipe, step, steps)) is not None:
            step = _replace(step, "blocked", lost)
        if step.missed and gate is None:
            gate = f"{name} misses its gate: {'; '.join(step.missed)}"
        steps[name] = step
    return Plan(recipe, run, tuple(steps.values()))


def _replace(step: Step, action: Action, reason: str) -> Step:
    return Step(step.name, step.config, step.identity, step.folder, action, reason, step.manifest, step.missed, step.redo)


def _left_out(step: Step) -> Step:
    return step if step.action == "skip" else _replace(step, "left out", f"not selected ({step.action}: {step.reason})")


def _not_there(recipe: Recipe, step: Step, steps: Mapping[str, Step]) -> str | None:
    """Why a stage cannot start although it is selected: what it takes is blocked. Raises RecipeError if that was not selected at all."""
    takes = _takes(recipe, step.name) if step.works else []
    lost = [name for name in takes if steps[name].action == "left out"]
    if lost:
        raise RecipeError(
            f"{step.name} takes from {', '.join(lost)}, which {'is' if len(lost) == 1 else 'are'} neither done nor selected; --until {step.name} makes what is missing first"
        )
    blocked = [name for name in takes if steps[name].action == "blocked"]
    return f"takes from {', '.join(blocked)}, which cannot run" if blocked else None


def _takes(recipe: Recipe, name: str) -> list[str]:
    """Stages that a stage takes from."""
    return list(dict.fromkeys(ref.value for ref in recipe.references[name] if ref.form == "stage"))


def _decide(recipe: Recipe, run: Run, name: str, identity: Identity, steps: Mapping[str, Step], *, redo: bool) -> Step:
    folder = run.folder(name, identity.fingerprint)
    config = recipe.stages[name]
    try:
        action, reason, manifest = _state(recipe, run, name, identity, folder, steps)
    except LaterFormatError as error:  # whole, and not ours to replace
        return Step(name, config, identity, folder, "run", f"{error}; that result is kept", redo=True)
    missed: list[str] = []
    if manifest is not None:
        missed = missed_gates(config.require, manifest.get("metrics", {}), config)
        renewed = _renewed(recipe, name, manifest, steps)
        if redo or renewed:
            return Step(name, config, identity, folder, "run", renewed or "asked for by --redo; the earlier result is kept", redo=True)
        if missed:
            reason += f"; misses its gate: {'; '.join(missed)}"
    elif action in ("resume", "seal") and (renewed := _renewed(recipe, name, folder.orders(), steps)):
        # A checkpoint holds weights that began as the model from before.
        return Step(name, config, identity, folder, "run", f"{renewed}; what was half done is kept", redo=True)
    return Step(name, config, identity, folder, action, reason, manifest, tuple(missed))


def _state(
    recipe: Recipe, run: Run, name: str, identity: Identity, folder: StageFolder, steps: Mapping[str, Step]
) -> tuple[Action, str, Mapping[str, Any] | None]:
    """What the stage's folder alone tells."""
    damaged = ""
    try:
        manifest = folder.manifest()
        faults = folder.faults(manifest) if manifest else []
        if manifest and not faults:
            current = run.current(name)
            again = "" if current and current.path == folder.path else "; becomes current again"
            return "skip", f"done {age(str(manifest['finished']))}{again}", manifest
        damaged = f"was done, but {faults[0]}; " if faults else ""
    except LaterFormatError:
        raise
    except StoreError as error:
        damaged = f"{error}; "
    if not damaged and folder.result() is not None and folder.artifact.is_dir():
        complaint = artifact_complaint(folder.artifact, recipe.stages[name])
        if complaint is None:
            return "seal", "finished while nobody watched", None
        damaged = f"finished, but {complaint}; "
    if (checkpoint := folder.checkpoint()) is not None:
        return "resume", f"{damaged}from {checkpoint}{_ending(folder)}", None
    if damaged:
        return "run", f"{damaged}no checkpoint is left", None
    if folder.attempts():
        # Where it was stopped, how it ended speaks of a checkpoint already.
        ended = _ending(folder).removesuffix(", without a new checkpoint")
        return "run", f"from the start{ended}" + ("" if "checkpoint" in ended else ", before its first checkpoint"), None
    return "run", _why(recipe, run, name, identity, steps), None


def _ending(folder: StageFolder) -> str:
    """How the last attempt ended, if it has."""
    attempts = folder.attempts()
    if not attempts:
        return ""
    last = attempts[-1]
    try:
        found = last.exit
    except StoreError:
        found = None
    how = str(found["how"]) if found else "runs now" if works_on(folder.path) else "ended unseen"
    return f"; attempt {last.number} {how}"


def _why(recipe: Recipe, run: Run, name: str, identity: Identity, steps: Mapping[str, Step]) -> str:
    """Why a stage without a folder of its own runs: what differs from the current result."""
    current = run.current(name)
    try:
        manifest = current.manifest() if current else None
    except StoreError:
        manifest = None
    if current is None or manifest is None:
        return "not done yet"
    names = {reference.field: reference.value for reference in recipe.references[name]}
    changes = differences(manifest.get("identity", {}), identity.value, names)
    changed = "; ".join(changes) or "another identity"
    inherited_only = all(change.endswith(" changes") for change in changes)
    return changed if inherited_only else f"{changed}; earlier result kept as {current.path.name}"


def _renewed(recipe: Recipe, name: str, made_from: Mapping[str, Any], steps: Mapping[str, Step]) -> str | None:
    """A stage above that was done again, with other bits than those in the `inputs` of this manifest or job."""
    inputs = made_from.get("inputs", {})
    for reference in recipe.references[name]:
        if reference.form != "stage":
            continue
        above, used = steps[reference.value], inputs.get(reference.field, {})
        if above.redo and above.action == "run":
            return f"{reference.value} runs again"
        if above.manifest is not None and used.get("digest") not in (None, above.manifest.get("digest")):
            return f"{reference.value} was done again, with another result"
    return None
