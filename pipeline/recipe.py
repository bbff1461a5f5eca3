"""A recipe: an ordered mapping of named stages, read from YAML and checked as a whole.

Nothing here knows a stage by name: the registry says which settings class belongs to a `kind`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from data.config import Spec
from pipeline import overrides
from pipeline.adapters import adapter_problems, target_problems
from pipeline.complaints import complaints, shown
from pipeline.errors import Problem, RecipeError, nearest, suggestion
from pipeline.gates import gate_problems
from pipeline.hardware import hardware_problems, placed, readable
from pipeline.names import IN_WORDS, NAME, TRUSTED
from pipeline.publishing import PUBLISHABLE, Publishing
from pipeline.reading import Document, dotted, read_recipe
from pipeline.references import Reference, reference_problems, references, repository
from stages.contract import TOKENS, Checkpoints, Divergence, Hardware, Tracker
from stages.core.config import StageConfig
from stages.registry import STAGES, config_class

RESERVED = (
    "recipe.yaml",
    "overrides.json",
    "hub",
    "hub.json",
    "events.jsonl",
    "lock",
    "report.html",
    "report-recipe.html",
    "published.json",
    "track",
    TOKENS,
    "job.sbatch",
)
"""Files of the run directory, beside which a stage's folder stands."""


class Head(Spec):
    """One recipe: a chain of stages, each of which takes only from the stages above it."""

    name: str = Field(pattern=NAME)
    """Name of the run directory: lower-case letters, digits, dots, dashes and underscores."""
    seed: int = Field(0, ge=0, lt=2**63)
    """All randomness of every stage follows from it."""
    hardware: Hardware = Hardware()
    """How the run is carried out; changing it reruns nothing."""
    checkpoints: Checkpoints = Checkpoints()
    """How often a stage can be resumed from; changing it reruns nothing."""
    track: tuple[Tracker, ...] = ()
    """Trackers that show the numbers while the run works, beside its own files: `tensorboard`, `wandb`, `trackio`, `mlflow`. Changing it reruns nothing."""
    divergence: Divergence = Divergence()
    """What follows a loss or gradient that is not finite; changing it reruns nothing."""
    publish: Publishing | None = None
    """Where the models go on the Hugging Face Hub once the whole run is done; nowhere if left out. Changing it reruns nothing."""
    trust_remote_code: tuple[Annotated[str, Field(pattern=TRUSTED)], ...] = ()
    """Hub models whose own Python may run on this machine, each at one commit: `owner/name@` and its 40 digits. No other code of a model ever runs."""
    stages: dict[str, dict[str, Any]] = Field(min_length=1)
    """Stages by name, in order."""


@dataclass(frozen=True)
class Recipe:
    """A recipe, as `load` gives it without a mistake that can be seen in the file alone."""

    name: str
    seed: int
    hardware: Hardware
    checkpoints: Checkpoints
    track: tuple[Tracker, ...]
    divergence: Divergence
    publish: Publishing | None
    trusted: tuple[str, ...]
    """`trust_remote_code`: owner/name@commit of Hub models whose own code may run."""
    stages: dict[str, StageConfig]
    references: dict[str, list[Reference]]
    """By stage: what it takes, by dotted field path."""
    file: Path
    """The recipe's file, as it was named."""
    root: Path
    """Folder that relative paths in the recipe start from."""
    text: str
    """The bytes given."""
    overrides: tuple[str, ...]
    document: Document
    """For the lines of later complaints."""

    def problem(self, stage: str, field: str, message: str) -> Problem:
        """A complaint about a field of a stage, with its line."""
        parts = [int(part) if part.isdecimal() else part for part in field.split(".") if part]
        path = ("stages", stage, *parts)
        return Problem(self.document.place(path), dotted(path), message)


def load(file: Path, given: Sequence[str] = (), *, root: Path | None = None) -> Recipe:
    """Reads and checks a recipe. Raises RecipeError with everything that is wrong."""
    recipe, problems = read(file, given, root=root)
    if problems:
        raise RecipeError(problems)
    return recipe


def read(file: Path, given: Sequence[str] = (), *, root: Path | None = None) -> tuple[Recipe, list[Problem]]:
    """A recipe as far as it is right, and everything that is wrong with it. Stages with a mistake, and references to them, are left out.

    Raises RecipeError if the file holds no recipe at all.
    """
    text, document = read_recipe(file, str(file))
    if not isinstance(document.value, dict):
        raise RecipeError(f"{file}: wanted a mapping with `name` and `stages`, found {shown(document.value)}")
    overrides.apply(document, given)
    problems = document.problems
    head = _head(document, problems)
    models = _models(document, problems)
    stages = _stages(models, document, problems)
    problems += reference_problems(models, document) + _published(head, models, document)
    wrong = {problem.path.split(".")[1] for problem in problems if problem.path.startswith("hardware.")}
    head = head or Head.model_construct(name="", stages={}, hardware=readable(document, wrong))
    root = (root or file.parent).resolve()
    problems += hardware_problems(head.hardware, stages, document, root, wrong)
    recipe = Recipe(
        name=head.name,
        seed=head.seed,
        hardware=head.hardware if problems else placed(head.hardware, root),
        checkpoints=head.checkpoints,
        track=head.track,
        divergence=head.divergence,
        publish=head.publish,
        trusted=head.trust_remote_code,
        stages=stages,
        references=_taken(stages),
        file=file,
        root=root,
        text=text,
        overrides=tuple(given),
        document=document,
    )
    problems += gate_problems(recipe) + target_problems(recipe)
    return recipe, problems or adapter_problems(recipe) + _trusted(recipe)


def _taken(stages: dict[str, StageConfig]) -> dict[str, list[Reference]]:
    """What each stage takes, less what does not stand above it, which is a problem that has been told."""
    names = list(stages)
    return {
        name: [one for one in references(config) if one.form != "stage" or one.value in names[: names.index(name)]]
        for name, config in stages.items()
    }


def _head(document: Document, problems: list[Problem]) -> Head | None:
    # Settings of stages are validated one by one below; here only that they are mappings.
    values = document.value
    try:
        return Head.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems += [_meant_for_a_stage(one, document) for one in complaints(error, Head, document, ())]
        return None


def _meant_for_a_stage(problem: Problem, document: Document) -> Problem:
    """`chat.epochs=3` where `stages.chat.epochs=3` is meant."""
    stages = _mapping(document.value.get("stages"))
    if not problem.message.startswith("unknown key"):
        return problem
    if problem.path not in stages:
        near = nearest(problem.path, stages) if "did you mean" not in problem.message and "." not in problem.path else None
        return replace(problem, message=f"unknown key; did you mean 'stages.{near}'?") if near else problem
    return replace(problem, message=f"unknown key; '{problem.path}' is a stage, whose fields are stages.{problem.path}.FIELD")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _models(document: Document, problems: list[Problem]) -> dict[str, type[StageConfig] | None]:
    """The settings class of every stage written; None where its kind is wrong."""
    written = document.value.get("stages")
    if not isinstance(written, dict):
        return {}
    return {name: _model(values, document, name, problems) if isinstance(values, dict) else None for name, values in written.items()}


def _model(values: dict[str, Any], document: Document, name: str, problems: list[Problem]) -> type[StageConfig] | None:
    path, kind = ("stages", name, "kind"), values.get("kind")
    if isinstance(kind, str) and kind in STAGES:
        return config_class(kind)  # type: ignore[no-any-return]
    found = f"found {shown(kind)}, wanted" if "kind" in values else "is missing; wanted"
    problems.append(Problem(document.place(path), dotted(path), f"{found} one of {', '.join(STAGES)}{suggestion(kind, STAGES)}"))
    return None


def _stages(models: dict[str, type[StageConfig] | None], document: Document, problems: list[Problem]) -> dict[str, StageConfig]:
    stages = {}
    for name, model in models.items():
        path = ("stages", name)
        if not re.match(NAME, name) or name in RESERVED:
            wanted = "a name that no file of the run directory has" if name in RESERVED else IN_WORDS[NAME]
            problems.append(Problem(document.place(path), dotted(path), f"found '{name}', wanted {wanted}"))
        if model is not None:
            try:
                stages[name] = model.model_validate_json(json.dumps(document.value["stages"][name]), strict=True)
            except ValidationError as error:
                problems += [_meant_for_all(one, dotted(path)) for one in complaints(error, model, document, path)]
    return stages


def _meant_for_all(problem: Problem, stage: str) -> Problem:
    """`hardware` in a stage, where it stands once for the recipe."""
    key = problem.path.removeprefix(f"{stage}.")
    if key not in Head.model_fields or not problem.message.startswith("unknown key"):
        return problem
    return replace(problem, message=f"unknown key; `{key}` is said once, for all stages, at the top of the recipe")


def _trusted(recipe: Recipe) -> list[Problem]:
    """Repositories whose code is trusted and which no stage takes, or takes at another commit."""
    taken = [repository(each.value) for named in recipe.references.values() for each in named if each.form == "hub"]
    found = []
    for number, trusted in enumerate(recipe.trusted):
        owner = trusted.partition("@")[0]
        wanted = [name for name in taken if name.partition("@")[0] == owner]
        others = [name for name in wanted if re.search(r"@[0-9a-f]{40}$", name) and name != trusted]
        message = f"no stage takes hub:{owner}{suggestion(owner, [name.partition('@')[0] for name in taken])}" if not wanted else None
        message = f"a stage takes hub:{others[0]}, another commit" if others else message
        if message:
            path = ("trust_remote_code", number)
            found.append(Problem(recipe.document.place(path), dotted(path), message))
    return found


def _published(head: Head | None, models: dict[str, type[StageConfig] | None], document: Document) -> list[Problem]:
    """Stages to publish that are none, or make what no model repository holds."""
    found = []
    for number, name in enumerate(head.publish.stages if head and head.publish else ()):
        path = ("publish", "stages", number)
        model = models.get(name)
        if name not in models:
            message = f"no stage '{name}' (stages: {', '.join(models)}){suggestion(name, models)}"
            found.append(Problem(document.place(path), dotted(path), message))
        elif model is not None and model.makes not in PUBLISHABLE:
            message = f"'{name}' makes a {model.makes}; only {', '.join(PUBLISHABLE)} can be published"
            found.append(Problem(document.place(path), dotted(path), message))
    return found
