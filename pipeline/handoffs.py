"""What stages hand to one another and what folders bring along, compared before anything starts: lengths, tokenizers, templates, bases. No data is read."""

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.adapters import adapter_problems, base_problems
from pipeline.artifacts import MANIFEST, end_is_padding, inspect, lacks_template, unfit
from pipeline.errors import Problem, suggestion
from pipeline.hub import fetched
from pipeline.plan import Plan
from pipeline.recipe import Recipe
from pipeline.references import sources, wanted_sources

MEND = "a tokenizer stage (`existing: ...`) adds one; name it as `tokenizer` of the stage that begins with this model"


def handoff_problems(recipe: Recipe) -> list[Problem]:
    """All that the recipe and the folders that it names tell."""
    return length_problems(recipe) + folder_problems(recipe) + base_problems(recipe) + path_problems(recipe)


def path_problems(recipe: Recipe) -> list[Problem]:
    """Paths into what a stage leaves, where it has said what that is, that lead to none of it."""
    problems = []
    for name, config in recipe.stages.items():
        for field, source in sources(config):
            known = recipe.stages[source.stage].leaves() if source.stage in recipe.stages else ()
            written = PurePosixPath(source.path)
            if known and written.parts and not any(fnmatchcase(each, written.parts[0]) for each in known):
                told = f"'{source.stage}' leaves no '{source.path}' (it leaves {', '.join(known)}){suggestion(source.path, known)}"
                problems.append(recipe.problem(name, f"{field}.path", told))
    return problems


def contexts_of(recipe: Recipe) -> dict[str, dict[str, int | None]]:
    """By stage, the longest sequence of each model that it takes, by field; None where it cannot be told."""
    found: dict[str, dict[str, int | None]] = {}
    left: dict[str, int | None] = {}
    for name, config in recipe.stages.items():
        found[name] = {}
        for reference in recipe.references[name]:
            folder = inspect(recipe.root / reference.value) if reference.form == "folder" else None
            found[name][reference.field] = left[reference.value] if reference.form == "stage" else getattr(folder, "context_length", None)
        left[name] = config.context_left(found[name])
    return found


def length_problems(recipe: Recipe) -> list[Problem]:
    """Stages that ask for more tokens than the models that they take, as far as the recipe and folders tell."""
    told = ((name, recipe.stages[name].too_long(contexts)) for name, contexts in contexts_of(recipe).items())
    return [recipe.problem(name, *complaint) for name, complaint in told if complaint is not None]


def folder_problems(recipe: Recipe) -> list[Problem]:
    """Models that began as a folder whose tokenizer does not fit them, pads with their end, or lacks the chat template that a stage renders.

    A tokenizer stage adds what is missing, and the first stage that names it as `tokenizer` beside `model` passes it on.
    """
    problems: list[Problem] = []
    lacking: dict[str, str] = {}
    for name, config in recipe.stages.items():
        if config.makes == "tokenizer" or any(reference.field == "tokenizer" for reference in recipe.references[name]):
            continue
        renders = any(wants in ("chat", "preference", "prompt") for _, _, wants in wanted_sources(config))
        for reference in recipe.references[name]:
            folder = recipe.root / reference.value if reference.form == "folder" else None
            lack = _lacks(folder) if folder else lacking.get(reference.value)
            misfit = _misfit(folder) if folder else None
            if misfit or (lack and renders):
                problems.append(recipe.problem(name, reference.field, misfit or lack or ""))
            elif lack:
                lacking[name] = lack
    return problems


def _misfit(folder: Path) -> str | None:
    return unfit(folder) or (
        f"{folder} pads with the token that ends a text, so that the end could not be learned; {MEND}" if end_is_padding(folder) else None
    )


def _lacks(folder: Path) -> str | None:
    return f"{folder} has no chat template; {MEND}" if lacks_template(folder) else None


def fetched_problems(plan: Plan) -> list[Problem]:
    """What the adapters of Hub models tell that are on this machine already: what `handoff_problems` and the recipe tell of others."""
    there = fetched(plan.recipe, plan.run.pins())
    if not there:
        return []
    known = base_problems(plan.recipe)
    return adapter_problems(plan.recipe, there) + [problem for problem in base_problems(plan.recipe, there) if problem not in known]


def tokenizer_problems(plan: Plan) -> list[Problem]:
    """Stages that take artifacts whose tokenizers or chat templates differ, as far as the artifacts are there."""
    found = []
    for step in plan.steps:
        for what in ("tokenizer_digest", "template_digest"):
            digests: dict[str, str] = {}
            for reference in plan.recipe.references[step.name]:
                if reference.field == "tokenizer":  # it may extend the model's own, which the stage compares token by token
                    continue
                folder = _folder(plan, reference.value) if reference.form != "hub" else None
                artifact = inspect(folder) if folder else None
                digest = getattr(artifact, what, None)
                if digest:
                    digests.setdefault(digest, reference.value)
            if len(digests) > 1:
                noun = "tokenizers" if what == "tokenizer_digest" else "chat templates"
                complaint = f"{' and '.join(digests.values())} have different {noun}; train them on one, or take another model"
                found.append(plan.recipe.problem(step.name, "", complaint))
    return found


def _folder(plan: Plan, value: str) -> Path | None:
    """Where an artifact lies, if it is there already."""
    if value in plan.recipe.stages:
        step = plan.step(value)
        return step.folder.artifact if (step.folder.path / MANIFEST).exists() else None
    return plan.recipe.root / value
