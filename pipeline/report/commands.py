"""The commands `pipeline report` and `pipeline compare`. Each gives its exit code; results go to standard output."""

import json
import sys
from pathlib import Path

from pipeline.arguments import Parser, port

DONE = 0


def report(arguments: list[str]) -> int:
    """Write one self-contained HTML page of a run."""
    parser = Parser("report", "Write one self-contained HTML page of a run: family tree, curves, samples, findings. Asks no network.")
    parser.add_argument(
        "run", metavar="RUN", help="a recipe, for its own results; or a run's folder, such as runs/demo, for those it holds"
    )
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="where to write the page (default: report.html in the run's folder, or report-recipe.html beside it if that holds other results than the recipe's)",
    )
    parser.add_argument("--watch", action="store_true", help="serve the page on this machine while the run goes on; Ctrl-C ends it")
    parser.add_argument("--port", metavar="N", type=port, default=0, help="port for --watch (default: a free one)")
    options = parser.json().read(arguments)
    from pipeline.own import run_of, tell_others

    run = run_of(options.run, options.runs)
    if options.watch:
        from pipeline.report.watch import serve

        if run.holds_others():
            print(f"note: --watch shows what {run.path} holds, which is not what {options.run} asks for", file=sys.stderr)
        return serve(run.path, options.port)
    from pipeline.report.page import write_report

    tell_others(run)
    page = write_report(run.path, options.out, run.own)
    print(json.dumps({"page": str(page), "bytes": page.stat().st_size}) if options.json else page)
    return DONE


def compare(arguments: list[str]) -> int:
    """Show what differs between two runs: settings, data and results, stage by stage."""
    parser = Parser("compare", "Show what differs between two runs: settings, data and results, stage by stage.")
    parser.add_argument("a", metavar="RUN_A", help="a recipe, for its own results; or a run's folder, for those it holds")
    parser.add_argument("b", metavar="RUN_B", help="another one")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the comparison as a self-contained page")
    options = parser.json().read(arguments)
    from rich.console import Console

    from pipeline.own import run_of, tell_others
    from pipeline.report.compare import as_html, as_table
    from pipeline.report.compare import compare as compared

    a, b = (run_of(name, options.runs) for name in (options.a, options.b))
    for run in (a, b):
        tell_others(run)
    found = compared(a.path, b.path, (a.own, b.own))
    if options.html:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(as_html(found), encoding="utf-8")
    if options.json:
        print(json.dumps(found.as_json(), indent=1, default=str))
    elif options.html:
        print(options.html)
    else:
        Console().print(as_table(found))
    return DONE
