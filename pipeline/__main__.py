"""`pipeline`: one recipe takes a language model through pretraining, SFT, reward modelling and PPO.

Exit codes: 0 done; 1 a stage failed or missed its gate; 2 the command line, the recipe or the data is wrong and nothing was started;
3 the run is held by another process; 130 interrupted, and the same command goes on.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline.errors import HeldError, PipelineError, RecipeError, suggestion

WRONG_USE = 2
"""`stages.contract.WRONG_INPUT`, which is not imported here so that asking for help costs nothing."""
WORKS = ("run", "publish", "export")
"""Commands that have failed if they cannot tell what they do."""
COMMANDS = {
    "init": ("pipeline.commands:init", "Write a starter recipe."),
    "check": ("pipeline.commands:check", "Find everything that is wrong with a recipe and its data, before anything starts."),
    "plan": ("pipeline.commands:plan", "Show what `run` would do, and why."),
    "run": ("pipeline.commands:run", "Carry out a recipe."),
    "status": ("pipeline.commands:status", "Show where a run stands."),
    "inspect": ("pipeline.inspect.command:main", "Show a stage's data as its model will see them, and what is wrong with them."),
    "clean": ("pipeline.commands:clean", "Remove results that the recipe does not ask for any more."),
    "doctor": ("pipeline.commands:doctor", "Look at the environment, and verify every byte of a run."),
    "report": ("pipeline.report.commands:report", "Write one self-contained HTML page of a run."),
    "compare": ("pipeline.report.commands:compare", "Show what differs between two runs: settings, data and results, stage by stage."),
    "chat": ("pipeline.chat.command:main", "Talk to a model of a run, or to several side by side."),
    "serve": ("pipeline.chat.serve:main", "Serve a model of a run through an OpenAI-compatible endpoint."),
    "publish": ("pipeline.publish.command:main", "Publish a run's models to the Hugging Face Hub."),
    "export": ("pipeline.export:main", "Write a stage's whole model, or several adapters as one; list and compare adapters."),
    "schema": ("pipeline.commands:schema", "Print the JSON Schema of recipes, for editors."),
}
"""Where each command is and what it does: text only, so that asking for help imports none of them."""


def main(argv: list[str] | None = None, *, worker: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code. `worker` is what Python is told to run for a stage; `-m stages` if left out."""
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _carried_out(words, worker)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe, `head` for one, has seen enough; what was to be done may have been left half done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if words[0] in WORKS else 0
    except SystemExit as error:  # argparse: 0 after --help, 2 for a wrong option
        return error.code if isinstance(error.code, int) else WRONG_USE
    except (PipelineError, OSError) as error:
        print(_said(error), file=sys.stderr)
        from stages.contract import FAILED, HELD

        return WRONG_USE if isinstance(error, RecipeError) else HELD if isinstance(error, HeldError) else FAILED
    except KeyboardInterrupt:
        return 130


def _said(error: Exception) -> str:
    """Of an OSError the file first, and no number."""
    named = isinstance(error, OSError) and error.filename is not None and error.strerror
    return f"{error.filename}: {error.strerror}" if named else f"{error}"  # type: ignore[attr-defined]


def _carried_out(words: Sequence[str], worker: Sequence[str] | None) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else WRONG_USE
    if words[0] == "--version":
        print(_version())
        return 0
    if words[0] not in COMMANDS:
        print(f"pipeline: no command '{words[0]}'{suggestion(words[0], COMMANDS)}\n\n{_help()}", file=sys.stderr)
        return WRONG_USE
    settings = {"worker": tuple(worker)} if words[0] == "run" and worker is not None else {}
    return int(_command(words[0])(words[1:], **settings))


def _command(name: str) -> Any:
    module, function = COMMANDS[name][0].split(":")
    return getattr(import_module(module), function)


def _help() -> str:
    lines = "\n".join(f"  {name:<8} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"usage: pipeline COMMAND ...\n\n{lines}\n\nStart with: pipeline init my.yaml && pipeline run my.yaml\nEach command explains itself with --help."


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"recipe-pipeline {version('recipe-pipeline')}"
    except PackageNotFoundError:
        return "recipe-pipeline (not installed)"


if __name__ == "__main__":
    sys.exit(main())
