"""`pipeline run`: from the command line to an exit code."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.checks import WARNING, check_all, look
from pipeline.errors import RecipeError, StoreError
from pipeline.here import lacks_here
from pipeline.identity import Identity, identities
from pipeline.launch import WORKER
from pipeline.lock import held
from pipeline.plan import Plan, Selection, make_plan
from pipeline.publishing import Publishing
from pipeline.recipe import Recipe
from pipeline.references import HUB, sources
from pipeline.show import plan_json, plan_text, summary
from pipeline.store import Run
from pipeline.target import tell_elsewhere, typed
from stages.contract import DONE, FAILED
from stages.core.files import is_refused_by_disk, room


def run_recipe(options: argparse.Namespace, arguments: Sequence[str], worker: Sequence[str] | None = None) -> int:
    """Plans, and unless nothing is to be done, locks the run, checks the data and carries the plan out."""
    selection = Selection(options.start, options.until, options.only, tuple(options.redo))
    looked = look(options.recipe, options.overrides, options.runs, selection)
    tell_elsewhere(looked.recipe, looked.run)
    plan = looked.whole()
    recipe, run = plan.recipe, plan.run
    if options.slurm:
        return _submit(options, recipe, run, selection, arguments)
    if options.dry_run:
        _dry(plan, worker or WORKER, as_json=options.json)
        return DONE
    if lacking := lacks_here(recipe, [step.name for step in plan.steps if step.works]):
        raise RecipeError(lacking)
    again, target = f"pipeline run {shlex.join(_again(options, arguments))}", typed(options.recipe, options.overrides, options.runs)
    with _writable(run, again), held(run.lock) as lock:
        plan, known = _ready(recipe, run, selection)
        run.record_recipe(recipe.text, recipe.overrides, recipe.file)
        from pipeline.execute import Execution
        from pipeline.process import Stop
        from pipeline.progress import view

        with Stop() as stop:
            execution = Execution(plan, selection, known, lock, view(), stop, again, worker or WORKER, options.grace, options.max_restarts)
            code = execution.execute()
    _end(make_plan(recipe, run, Selection(), known), target, code, as_json=options.json)
    if code == DONE and recipe.publish is not None:
        if selection == Selection(redo=selection.redo):
            return _publish(recipe.publish, run)
        print(f"not published, since only a part of the run was asked for; to publish: pipeline publish {run.path}", file=sys.stderr)
    return code


@contextmanager
def _writable(run: Run, again: str) -> Iterator[None]:
    """Raises StoreError, with what is left and how to go on, where the disk that holds the run takes no more."""
    try:
        yield
    except OSError as error:
        if not is_refused_by_disk(error):
            raise
        there = next(folder for folder in (run.path, *run.path.absolute().parents) if folder.is_dir())
        raise StoreError(
            f"{' '.join(str(error).split())}: {room(there)} are free in {there}; finished stages and checkpoints stay; to go on: {again}"
        ) from error


def _checked(plan: Plan) -> None:
    """Reads the data of all stages that are to work, and says what looks wrong with them. Raises RecipeError if something is wrong."""
    notes = check_all(plan, [step.name for step in plan.steps if step.works])
    print(*(f"{note}\n" for note in notes if note.startswith(WARNING)), sep="", end="", file=sys.stderr)


def _ready(recipe: Recipe, run: Run, selection: Selection) -> tuple[Plan, dict[str, Identity]]:
    """The plan, and what each stage is, once all models that it takes from the Hub are on this machine and its data have been looked at."""
    from pipeline.hub import check_trust, fetch_all, settle

    pins = settle(recipe, run)
    check_trust(recipe, pins)
    known = identities(recipe, pins)
    plan = make_plan(recipe, run, selection, known)
    fetch_all(plan)
    _checked(plan)
    return plan, known


def _submit(options: argparse.Namespace, recipe: Recipe, run: Run, selection: Selection, arguments: Sequence[str]) -> int:
    """The run as a job of Slurm: shown, or made ready and handed in. Models are fetched here: a cluster's nodes often reach no network."""
    from pipeline.slurm import check_sbatch, command_of, job_script, submit

    if options.redo:
        raise RecipeError("--redo with --slurm would begin anew each time that the job comes back: leave one of them out")
    text = job_script(recipe, command_of(arguments), run.path.resolve(), Path.cwd())
    if options.dry_run:
        print(text, end="")
        return DONE
    check_sbatch()
    with _writable(run, f"pipeline run {shlex.join(arguments)}"), held(run.lock):
        plan, _ = _ready(recipe, run, selection)
    from_hub = [step.name for step in plan.steps if step.works and any(source.path.startswith(HUB) for _, source in sources(step.config))]
    if from_hub:
        print(f"{WARNING}data of {', '.join(from_hub)} lie on the Hub, which the job's nodes must reach to read them", file=sys.stderr)
    print(f"{submit(text, run.path.resolve())}\nnext: pipeline status {typed(options.recipe, options.overrides, options.runs)}")
    return DONE


def _publish(how: Publishing, run: Run) -> int:
    """What the recipe says of publishing, carried out. A failure leaves the run done."""
    from pipeline.publish import PublishError, publish, secret_values

    try:
        for one in publish(run.path, how, secrets=secret_values(os.environ), say=lambda line: print(line, file=sys.stderr)):
            print(f"{one.stage} is published: {one.url}", file=sys.stderr)
    except PublishError as error:
        print(f"{error}\nthe run is done and stays; to publish it: pipeline publish {run.path}", file=sys.stderr)
        return FAILED
    return DONE


def _again(options: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """The same command, less what would be done twice."""
    words = [word for word in arguments if word != "--json"]
    if options.redo:
        words = [word for i, word in enumerate(words) if not word.startswith("--redo") and (i == 0 or words[i - 1] != "--redo")]
    return words


def _dry(plan: Plan, worker: Sequence[str], *, as_json: bool) -> None:
    from pipeline.estimate.deciding import decided
    from pipeline.launch import command

    steps = [step for step in plan.steps if step.action in ("run", "resume")]
    settled = {step.name: decided(plan, step) for step in steps}
    commands = {step.name: command(step.folder.path / "job.json", settled[step.name][0], worker) for step in steps}
    if as_json:
        print(json.dumps(plan_json(plan) | {"commands": commands}, indent=1))
        return
    print(plan_text(plan))
    for name, (_, told) in settled.items():
        print(f"\n{name}: {shlex.join(commands[name])}" + (f"\n  {told}" if told else ""))


def _end(plan: Plan, target: str, code: int, *, as_json: bool) -> None:
    """The tables and where everything is, or what is there so far as JSON."""
    if as_json:
        print(json.dumps(plan_json(plan) | {"exit_code": code}, indent=1))
    elif code == DONE:
        print(f"\n{summary(plan)}\n\nnext: pipeline status {target}")
