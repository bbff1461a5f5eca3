"""A report as one self-contained HTML page. Everything from data is escaped; the page runs no script and asks no network."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from data.inspection.report import Report
from pipeline.inspect.wording import figures, headline, judged, legend, span
from stages.core.files import write_text

MARK = "\0"
"""Stands in the legend where an example of what is learned goes."""


def write_page(report: Report, name: str, file: Path) -> None:
    """Write the page, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, page(report, name).encode(errors="replace").decode())


def page(report: Report, name: str) -> str:
    """The page of a report; `name` is the recipe's."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_asset)
    )
    environment.filters["span"] = span
    style = _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    most = {part.name: max((bin.count for bin in part.lengths.bins), default=1) or 1 for part in report.parts}
    return environment.get_template("page.html.jinja").render(
        report=report,
        name=name,
        style=Markup(style),  # noqa: S704 our own file, not data
        policy=policy,
        headline=headline(report),
        legend=legend(report, MARK).partition(MARK),
        judged=judged(report),
        figures={part.name: list(figures(part)) for part in report.parts},
        most=most,
    )


def _asset(name: str) -> str:
    return (files("pipeline.inspect") / name).read_text(encoding="utf-8")
