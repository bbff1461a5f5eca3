"""The commands that only look: check, plan, status, schema; and init. Each gives its exit code; results go to standard output."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.arguments import Parser, count
from pipeline.errors import RecipeError, suggestion

DONE, FAILED = 0, 1
"""As in `stages.contract`, which is not imported here so that asking for help costs nothing."""
MACHINE = ("gpu_memory", "gpu", "nodes", "price", "mfu", "calibrate")
"""Options of `plan` that describe a machine, beside `--gpus`."""


def plan(arguments: list[str]) -> int:
    """Show what `run` would do, and why."""
    parser = Parser("plan", "Show what `run` would do for each stage, and why. Starts nothing.").recipe("recipe (YAML), or a run's folder")
    _machine(parser)
    options = parser.selection().json().read(arguments)
    from pipeline.checks import look, warnings
    from pipeline.plan import Selection
    from pipeline.show import plan_json, plan_text
    from pipeline.target import tell_elsewhere

    selection = Selection(options.start, options.until, options.only, tuple(options.redo))
    if options.gpus is None and (given := next((name for name in MACHINE if getattr(options, name) not in (None, False)), None)):
        raise RecipeError(f"--{given.replace('_', '-')} is about a machine: say --gpus and how many it has")
    looked = look(options.recipe, options.overrides, options.runs, selection, elsewhere=options.gpus is not None)
    tell_elsewhere(looked.recipe, looked.run)
    made = looked.whole()
    if options.gpus is not None:
        from pipeline.estimate.command import main

        return main(made, options)
    notes = warnings(made.recipe)
    print(json.dumps(plan_json(made) | {"notes": notes}, indent=1) if options.json else "\n".join([plan_text(made), *notes]))
    return DONE


def _machine(parser: Parser) -> None:
    """Options that ask what the stages need on a machine."""
    group = parser.add_argument_group("what it needs", "With --gpus: memory, time, disk and price of every stage, and which setting fits.")
    group.add_argument("--gpus", metavar="N", type=_whole("--gpus", 0), help="devices of each node; 0 for a CPU")
    group.add_argument("--gpu-memory", metavar="SIZE", help="memory of a device, such as 80GB")
    group.add_argument("--gpu", metavar="NAME", help="a known device, such as h100: its memory and speed")
    group.add_argument("--nodes", metavar="N", type=_whole("--nodes", 1), help="nodes (default: hardware.nodes, or 1)")
    group.add_argument("--price", metavar="P", type=_number("--price", "a number above 0"), help="price of a device for an hour")
    group.add_argument("--calibrate", action="store_true", help="take a few steps of each stage on this machine, and reckon time from them")
    wanted = "a share of the peak above 0 and at most 1, such as 0.4"
    group.add_argument(
        "--mfu", metavar="SHARE", type=_number("--mfu", wanted, most=1.0), help="share of the peak that training reaches (default: 0.4)"
    )


def check(arguments: list[str]) -> int:
    """Find everything that is wrong with a recipe and its data, before anything starts."""
    parser = Parser("check", "Find everything that is wrong with a recipe and its data. Starts nothing; exit code 2 if something is wrong.")
    options = parser.recipe("recipe (YAML), or a run's folder").json().read(arguments)
    from pipeline.checks import WARNING, look
    from pipeline.checks import check as checked

    try:
        looked = look(options.recipe, options.overrides, options.runs)
        notes, recipe = checked(looked), looked.recipe
    except RecipeError as error:
        if not options.json:
            raise
        problems = [{"where": problem.where, "path": problem.path, "message": problem.message} for problem in error.problems]
        print(json.dumps({"ok": False, "problems": problems}, indent=1))
        return 2
    if options.json:
        print(json.dumps({"ok": True, "stages": list(recipe.stages), "notes": notes}, indent=1))
    else:
        warnings = sum(note.startswith(WARNING) for note in notes)
        told = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        print("\n".join([*notes, f"{options.recipe}: {len(recipe.stages)} stages, nothing wrong{told}"]))
    return DONE


def status(arguments: list[str]) -> int:
    """Show where a run stands."""
    parser = Parser("status", "Show where a run stands: what is done, what runs now, how each attempt ended.")
    options = parser.recipe("recipe (YAML), or a run's folder").json().read(arguments)
    from pipeline.standing import going_on, holding, standing
    from pipeline.target import elsewhere, open_target, typed

    recipe, run = open_target(options.recipe, options.overrides, options.runs)
    try:
        found = standing(recipe, run)
    except RecipeError as error:  # as of a run that was moved away from its data
        if not Path(options.recipe).is_dir():
            raise
        found = holding(recipe, run)
        print(f"what is there, whether or not the recipe asks for it, since that cannot be told:\n{error}", file=sys.stderr)
    if options.json:
        print(json.dumps(found, indent=1))
        return DONE
    from pipeline.show import columns

    there = found["held"] or ("no process works on it" if run.path.exists() else f"has not run: there is no {run.path}")
    print(f"{recipe.name}  {there}{elsewhere(recipe, run)}")
    print(columns((stage["name"], stage["state"], stage["text"]) for stage in found["stages"]))
    if (what := going_on(found)) is not None:
        print(f"{what}: pipeline run {typed(options.recipe, options.overrides, options.runs)}")
    return DONE


def schema(arguments: list[str]) -> int:
    """Print the JSON Schema of recipes, for editors."""
    Parser(
        "schema",
        "Print the JSON Schema of recipes. In an editor with a YAML language server: # yaml-language-server: $schema=recipe.schema.json",
    ).read(arguments)
    from pipeline.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))
    return DONE


def init(arguments: list[str]) -> int:
    """Write a starter recipe."""
    parser = Parser("init", "Write a starter recipe: a copy of one that is shipped.")
    parser.add_argument("file", metavar="FILE", help="recipe to write, such as my.yaml")
    parser.add_argument("--from", dest="source", metavar="NAME", default="demo", help="shipped recipe to copy (default: demo)")
    options = parser.read(arguments)
    target, text = Path(options.file), _shipped(options.source)
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(_own(text, options.source, target))
    except FileExistsError as error:
        raise RecipeError(f"{target} is there already; nothing was written") from error
    except OSError as error:
        where = "" if target.parent.is_dir() else f": there is no folder '{target.parent}'"
        raise RecipeError(f"{target} cannot be written{where or f': {error.strerror}'}") from error
    print(f"wrote {target}; next: pipeline plan {shlex.quote(str(target))}")
    return DONE


def _shipped(name: str) -> str:
    """Text of a recipe in the package `recipes`."""
    from importlib.resources import files

    known = {entry.name.removesuffix(".yaml"): entry for entry in files("recipes").iterdir() if entry.name.endswith(".yaml")}
    if name not in known:
        raise RecipeError(f"no shipped recipe '{name}' (there are {', '.join(sorted(known))}){suggestion(name, known)}")
    return known[name].read_text(encoding="utf-8")


def _own(text: str, source: str, target: Path) -> str:
    """The recipe under the file's name, so that its run does not share the shipped one's folder, headed by the command that runs the file."""
    import re

    text = re.sub(r" +\(or `make .*\)$", "", text.replace(f"recipes/{source}.yaml", shlex.quote(str(target))), flags=re.MULTILINE)
    name = re.sub(r"[^a-z0-9._-]+", "-", target.stem.lower()).strip("-._")[:64] or "recipe"
    return re.sub(r"^name:.*$", f"name: {name}", text, count=1, flags=re.MULTILINE)


def _whole(option: str, least: int) -> Callable[[str], int]:
    """Reads an option of a machine. Raises RecipeError, as what is wrong with a machine as a whole does."""

    def read(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise RecipeError(f"{option}: found '{word}', wanted a whole number from {least}")
        return int(word)

    return read


def _number(option: str, wanted: str, most: float = sys.float_info.max) -> Callable[[str], float]:
    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise RecipeError(f"{option}: found '{word}', wanted {wanted}")
        return value

    return read


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"found '{word}', wanted a number of seconds from 0")
    return seconds


def run(arguments: list[str], worker: tuple[str, ...] | None = None) -> int:
    """Carry out a recipe."""
    parser = Parser("run", "Carry out a recipe: finished stages are skipped, half-done ones resumed.").recipe().selection().json()
    parser.add_argument("--dry-run", action="store_true", help="show the plan and the commands, start nothing")
    parser.add_argument("--slurm", action="store_true", help="submit the run as a job of Slurm; with --dry-run, print the job")
    parser.add_argument(
        "--grace", metavar="SECONDS", type=_seconds, default=120.0, help="time a stopped stage has for its checkpoint (default: 120)"
    )
    parser.add_argument(
        "--max-restarts",
        metavar="N",
        type=count,
        default=0,
        help="start a stage again, up to N times, after it crashed, was killed or hung (default: 0)",
    )
    options = parser.read(arguments)
    from pipeline.running import run_recipe

    return run_recipe(options, arguments, worker)


def clean(arguments: list[str]) -> int:
    """Remove results that the recipe does not ask for any more."""
    parser = Parser("clean", "List results of a run that its recipe does not ask for any more, and half-done ones; remove them with --yes.")
    parser = parser.recipe("recipe (YAML), or a run's folder").json()
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    options = parser.read(arguments)
    from pipeline.upkeep import clean_run

    return clean_run(options)


def doctor(arguments: list[str]) -> int:
    """Look at the environment, and verify every byte of a run."""
    parser = Parser(
        "doctor",
        "Look at the environment; with a run, verify the SHA-256 of every file of every result. Exit code 1 if something is wrong.",
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe (YAML), or a run's folder")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    options = parser.json().read(arguments)
    from pipeline.upkeep import examine

    found: dict[str, Any] = examine(options.recipe, options.runs)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        from pipeline.show import columns

        print(columns((entry["what"], entry["state"], entry["text"]) for entry in found["entries"]))
    return DONE if found["ok"] else FAILED
