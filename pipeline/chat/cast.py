"""Who takes part in a conversation: the finished models of a run, or those of it that a recipe means."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import inspect, untrusted_code
from pipeline.errors import RecipeError, StoreError, suggestion
from pipeline.store import Run
from stages.contract import Artifact


@dataclass(frozen=True)
class Cast:
    """Artifacts by the name of their stage, in the order in which they were finished."""

    models: dict[str, Path]
    judges: dict[str, Path]
    trusted: tuple[Path, ...] = ()
    """Artifacts whose models' own code may run."""
    lacks: Callable[[str], str | None] = lambda name: None
    """Why a name is no finished stage of the recipe, and what to do."""

    def model(self, name: str) -> str:
        """The name, if it is a model's. Raises RecipeError with those that are there."""
        if name not in self.models and name not in self.judges and (lack := self.lacks(name)) is not None:
            raise RecipeError(lack)
        if name not in self.models:
            what = (
                "is a reward model, which judges and does not talk" if name in self.judges else "is no finished language model of this run"
            )
            raise RecipeError(f"'{name}' {what} (there are {', '.join(self.models)}){suggestion(name, self.models)}")
        if (complaint := untrusted_code(name, self.models[name], self.trusted)) is not None:
            raise RecipeError(complaint)
        return name


def cast(run: Run) -> Cast:
    """Everybody in a run. Raises RecipeError if nobody can talk yet."""
    found: dict[str, tuple[str, Artifact, Path]] = {}
    for link in run.named():
        current = run.current(link)
        try:
            manifest = current.manifest() if current else None
        except StoreError:
            continue
        if current and manifest and isinstance(says := inspect(current.artifact), Artifact):
            found[link] = (str(manifest.get("finished", "")), says, current.artifact.resolve())
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    kinds = {kind: {name: path for name, (_, says, path) in ordered if says.kind == kind} for kind in ("causal-lm", "reward-model")}
    if not kinds["causal-lm"]:
        told = "".join(f"\n{run.lacks(name)}" for name in (run.own.replaced if run.own else ()))
        first = run.own.make if run.own else f"pipeline run {run.path}"
        raise RecipeError(told.strip() or f"{run.path} holds no finished language model yet; first: {first}")
    return Cast(kinds["causal-lm"], kinds["reward-model"], run.may_run(), run.lacks)
