"""Looks at a recipe, its artifacts and its data before anything starts, and tells everything that is wrong at once.

`plan` looks at all that costs little (`look`); `check` and `run` also read every local source as its stage will read it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from data.checking import Finding, check_source
from data.config import Source
from data.errors import DataError
from data.extent import Extent, joined
from data.formats import Chat, Preference, Prompt, Record, Text
from data.sources import resolve
from pipeline.errors import Problem, RecipeError
from pipeline.handoffs import contexts_of, fetched_problems, handoff_problems, tokenizer_problems
from pipeline.here import lacks_here
from pipeline.identity import missing
from pipeline.jobs import located, source_folder
from pipeline.outward import outward_problems
from pipeline.plan import Plan, Selection, make_plan
from pipeline.recipe import Recipe
from pipeline.references import Reference, wanted_sources
from pipeline.shares import share_problems
from pipeline.store import Run
from pipeline.target import read_target
from stages.core.config import StageConfig

FEW = 20
FEWEST = 10
"""Held-out records below which a check warns: one of nine more or less is a tenth of an accuracy."""
WARNING = "warning: "
"""Begins a note on something that looks wrong."""
RECORDS: dict[str | None, type[Record] | None] = {None: None, "text": Text, "chat": Chat, "preference": Preference, "prompt": Prompt}
Seen = tuple[list[Finding], Extent]


@dataclass(frozen=True)
class Look:
    """What a look without reading data tells."""

    recipe: Recipe
    """As far as it is right."""
    run: Run
    plan: Plan | None
    """None if the recipe, or what it names, is not right."""
    problems: list[Problem]

    def whole(self) -> Plan:
        """The plan. Raises RecipeError with everything that is wrong."""
        if self.plan is None or self.problems:
            raise RecipeError(self.problems)
        return self.plan


def look(name: str, overrides: Sequence[str], runs: str, selection: Selection | None = None, *, elsewhere: bool = False) -> Look:
    """Everything that is wrong with a recipe, but for the rows of its data and what this machine lacks; for another machine than its `hardware` names
    (`elsewhere`) also but for what the processes of that cannot share.

    Raises RecipeError if there is no recipe, or no such stage to select.
    """
    recipe, run, problems = read_target(name, overrides, runs)
    plan = None
    if problems:
        problems = problems + missing(recipe)
    else:
        (selection or Selection()).names(recipe)
        try:
            plan = make_plan(recipe, run, selection)
        except RecipeError as error:
            problems = error.problems
    problems = [*problems, *_of_recipe(recipe), *(_of_plan(plan) if plan else [])]
    return Look(recipe, run, plan, problems if elsewhere else problems + share_problems(recipe, _starting(recipe, plan)))


def _starting(recipe: Recipe, plan: Plan | None) -> list[str]:
    """Stages that have yet to start, as far as that is known."""
    return [step.name for step in plan.steps if step.action in ("run", "resume", "blocked")] if plan else list(recipe.stages)


def check(looked: Look) -> list[str]:
    """What was noticed about the recipe and its data. Raises RecipeError with everything that is wrong."""
    problems, notes = _of_stages(looked.recipe, looked.plan, list(looked.recipe.stages))
    if looked.problems or problems:
        raise RecipeError(looked.problems + problems)
    return notes + _here(looked.recipe)


def check_all(plan: Plan, names: Collection[str]) -> list[str]:
    """What was noticed about these stages of a plan and their data. Raises RecipeError with everything that is wrong."""
    problems, notes = _of_stages(plan.recipe, plan, names)
    problems = [*_of_recipe(plan.recipe), *_of_plan(plan), *problems]
    if problems:
        raise RecipeError(problems)
    return notes


def warnings(recipe: Recipe) -> list[str]:
    """What looks wrong without reading data: stages whose settings alone leave few optimizer steps, and what a run would lack on this machine."""
    told = ((name, recipe.stages[name].few_steps(float("inf"), float("inf"), contexts)) for name, contexts in contexts_of(recipe).items())
    return [f"{WARNING}stages.{name}.{found[0]}: {found[1]}" for name, found in told if found] + _here(recipe)


def _here(recipe: Recipe) -> list[str]:
    return [f"{WARNING}a run cannot start on this machine: {problem}" for problem in lacks_here(recipe)]


def _of_recipe(recipe: Recipe) -> list[Problem]:
    return handoff_problems(recipe) + outward_problems(recipe)


def _of_plan(plan: Plan) -> list[Problem]:
    return tokenizer_problems(plan) + fetched_problems(plan)


def _of_stages(recipe: Recipe, plan: Plan | None, names: Collection[str]) -> tuple[list[Problem], list[str]]:
    """Problems and notes of the data of these stages."""
    problems: list[Problem] = []
    notes: list[str] = []
    contexts = contexts_of(recipe)
    known: dict[tuple[str, str | None], Seen] = {}
    for name in names:
        for path, finding in _of_stage(recipe, plan, recipe.stages[name], contexts[name], known):
            if finding.problem:
                problems.append(recipe.problem(name, path, finding.text))
            else:
                notes.append(f"{WARNING if finding.warning else ''}stages.{name}.{path}: {finding.text}")
    return problems, notes


def _of_stage(
    recipe: Recipe, plan: Plan | None, config: StageConfig, contexts: Mapping[str, int | None], known: dict[tuple[str, str | None], Seen]
) -> Iterator[tuple[str, Finding]]:
    """Findings on one stage's data by field; `known` has what was seen of sources that other stages read too."""
    fields: dict[str, list[tuple[Source, Extent]]] = {}
    for path, source, wants in wanted_sources(config):
        key = (source.model_dump_json(), wants)
        if key not in known:
            known[key] = _seen(recipe, plan, source, wants)
        findings, extent = known[key]
        yield from ((path, finding) for finding in findings)
        fields.setdefault(path.rpartition(".")[0], []).append((source, extent))
    for field, held in fields.items():
        extents = [extent for _, extent in held]
        whole = joined(extents)
        found = [*_of_fit(config, field, whole, contexts), *_of_division(config, field, whole)]
        if (lack := config.lacking(field, whole)) is not None:
            found.append(Finding(True, lack))
        yield from ((field, finding) for finding in found)
    yield from _of_steps(config, fields, contexts)


def _of_fit(config: StageConfig, field: str, extent: Extent, contexts: Mapping[str, int | None]) -> Iterator[Finding]:
    """Records that have more words than the model has room for tokens: there are surely as many more."""
    room = config.room(field, contexts)
    if room is None or room < 1:  # that there is no room at all has been told
        return
    long, lost = (sum(words > room for words in counted) for counted in (extent.whole, extent.least))
    if not long:
        return
    some = f"{long:,} of {extent.records:,} records have more words than the {room:,} tokens that there is room for"
    if lost == extent.records and extent.is_complete:
        yield Finding(
            True, f"{some}, and none fits even without the turns that can be dropped; take a model with a longer context, or shorten them"
        )
    elif lost and config.refuses_long:
        yield Finding(
            True, f"{some}, and {lost:,} of them do not fit even without the turns that can be dropped; shorten them or leave them out"
        )
    else:
        yield Finding(False, f"{some}: {lost:,} are left out, the others lose turns, and so may records with as many tokens", warning=True)


def _of_division(config: StageConfig, field: str, extent: Extent) -> Iterator[Finding]:
    """Data of which no share can be held out, or so few records that what is measured on them says nothing. Of texts a few may be long ones."""
    if not extent.is_complete or not extent.records:
        return
    divides = field == config.divided()
    if divides and not extent.differs:
        what = "1 record" if extent.records == 1 else f"{extent.records:,} records with one and the same content"
        rather = ", or name `validation` data" if "validation" in type(config).model_fields else ""
        yield Finding(True, f"{what} cannot be divided into training and held-out data; give several, a row or a file each{rather}")
    elif (divides or field == "validation") and not extent.is_text:
        held = max(1, round(extent.records * getattr(config, "held_out", 1.0))) if divides else extent.records
        if held < FEWEST:
            told = (
                f"about {held} of {extent.records:,} records {'is' if held == 1 else 'are'}"
                if divides
                else f"{held} {'record is' if held == 1 else 'records are'}"
            )
            way = "name `validation` data, or raise held_out" if divides else "give more of them"
            yield Finding(False, f"{told} held out, and what is measured on so few says little; {way}", warning=True)


def _of_steps(
    config: StageConfig, fields: Mapping[str, Sequence[tuple[Source, Extent]]], contexts: Mapping[str, int | None]
) -> Iterator[tuple[str, Finding]]:
    held = fields.get("data", ())
    complete = bool(held) and all(extent.is_complete for _, extent in held)
    share = 1 - getattr(config, "held_out", 0.0) if config.divided() else 1.0
    records = share * sum(source.weight * extent.records for source, extent in held) if complete else float("inf")
    characters = share * sum(source.weight * extent.characters for source, extent in held) if complete else float("inf")
    if (told := config.few_steps(records, characters, contexts)) is not None:
        yield told[0], Finding(False, told[1], warning=True)


def _seen(recipe: Recipe, plan: Plan | None, source: Source, wants: str | None) -> Seen:
    """A source's rows and their extent; nothing for data that a stage has yet to make, and of what it has made only what is wrong."""
    made = source.stage is not None and Reference("", source.stage, ()).form == "stage"
    unseen: Seen = ([], Extent(is_complete=False))
    if made and (plan is None or source.stage not in recipe.stages or plan.step(str(source.stage)).manifest is None):
        return unseen
    try:
        files = resolve(
            source, recipe.root, source_folder(plan, source.stage) if plan else recipe.root / source.stage if source.stage else None
        )
    except DataError as error:  # of what lies outside of the run, or what a stage says that it leaves, it has been told already
        return ([Finding(True, str(error))], unseen[1]) if made and not recipe.stages[str(source.stage)].leaves() else unseen
    source = located(source, recipe.root)
    if made:  # our own rows are well formed; a few of them show whether they are the right ones
        findings, extent = check_source(source.model_copy(update={"limit": FEW}), files, RECORDS[wants])
        extent.is_complete = False
        return [finding for finding in findings if finding.problem], extent
    return check_source(source, files, RECORDS[wants])
