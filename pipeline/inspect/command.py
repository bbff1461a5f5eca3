"""The command `pipeline inspect`."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.arguments import Parser
from pipeline.errors import PipelineError, RecipeError

if TYPE_CHECKING:
    from data.inspection.report import Report

DONE, WRONG_INPUT = 0, 2
HOME = Path(__file__).resolve().parents[2]
"""Where our packages lie."""


def main(arguments: list[str]) -> int:
    """Show a stage's data as its model will see them. Exit code 2 if they cannot be used as they are."""
    parser = Parser(
        "inspect",
        "Show a stage's data as its model will see them: samples with what is learned, lengths, packing, duplicates, and what is wrong. "
        "Exit code 2 if something is.",
    ).recipe("recipe (YAML), or a run's folder", overrides=False)
    parser.add_argument("stage", metavar="STAGE", help="stage whose data are looked at")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="any field by its dotted path, such as stages.chat.learn=last")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained page")
    parser.add_argument("--samples", metavar="N", type=int, default=3, help="samples of each part (default: 3)")
    parser.add_argument("--rows", metavar="N", type=int, default=10_000, help="records of each source that are looked at (default: 10000)")
    options = parser.json().read(arguments)
    if options.samples < 0 or options.rows < 1:
        raise RecipeError("--samples wants 0 or more, --rows 1 or more")
    from pipeline.inspect.task import make_task
    from pipeline.plan import make_plan
    from pipeline.target import open_target

    recipe, run = open_target(options.recipe, options.overrides, options.runs)
    report = examined(make_task(make_plan(recipe, run), options.stage, samples=options.samples, rows=options.rows).model_dump_json())
    if options.html:
        from pipeline.inspect.page import write_page

        write_page(report, recipe.name, options.html)
    if options.json:
        print(report.model_dump_json(indent=1))
    elif options.html:
        print(options.html)
    else:
        from pipeline.inspect.terminal import print_report

        print_report(report)
    return WRONG_INPUT if report.count("error") else DONE


def examined(task: str) -> "Report":
    """The report on a task, from a process of its own. Raises RecipeError if the data cannot be read."""
    from data.inspection.report import Report

    with tempfile.TemporaryDirectory(prefix="inspect-") as folder:
        file = Path(folder) / "task.json"
        file.write_text(task, encoding="utf-8")
        # Our packages are found by the working directory, so that no file of the user's directory takes their place.
        done = subprocess.run([sys.executable, "-m", "data.inspection", str(file)], cwd=HOME, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == WRONG_INPUT:
        raise RecipeError(last)
    if done.returncode:
        raise PipelineError(f"the inspection failed: {last}")
    return Report.model_validate_json(done.stdout)
