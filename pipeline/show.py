"""Plans, results and tables as text for people."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from pipeline.errors import StoreError
from pipeline.jobs import relative
from pipeline.lock import held_by
from pipeline.plan import Plan, Step
from pipeline.progress import number, numbers
from pipeline.store import StageFolder, read_json
from stages.contract import Result, Table


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns, the last one as long as it likes."""
    table = [list(row) for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)] if table else []
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def plan_text(plan: Plan) -> str:
    """A line a stage, and who works on the run now."""
    held = held_by(plan.run.lock)
    table = columns((step.name, step.kind, step.action, step.reason) for step in plan.steps)
    return f"{table}\n{plan.run.path} is {held}" if held else table


def plan_json(plan: Plan) -> dict[str, Any]:
    stages = [_step_json(step) for step in plan.steps]
    return {"name": plan.recipe.name, "run": str(plan.run.path), "held": held_by(plan.run.lock), "stages": stages}


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "kind": step.kind,
        "action": step.action,
        "reason": step.reason,
        "fingerprint": step.identity.fingerprint,
        "folder": str(step.folder.path),
        "metrics": dict(step.manifest["metrics"]) if step.manifest else {},
        "missed": list(step.missed),
    }


def table_text(table: Table) -> str:
    """A result table with its title; numbers stand at the right of their column."""
    body = [[_cell(value) for value in row] for row in table.rows]
    wide = max([len(table.columns), *map(len, body)])
    rows = [row + [""] * (wide - len(row)) for row in [list(table.columns), *body]]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    right = [any(isinstance(row[i], int | float) for row in table.rows if i < len(row)) for i in range(wide)]
    lines = ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in rows]
    rule = "-" * min(160, max(map(len, lines)))
    return "\n".join([table.title, rule, lines[0], rule, *lines[1:]])


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())
    return number(value)


def result_of(folder: StageFolder) -> Result | None:
    try:
        found = read_json(folder.path / "result.json")
        return None if found is None else Result.model_validate_json(json.dumps(found))
    except (StoreError, ValidationError):
        return None


def summary(plan: Plan) -> str:
    """What a finished run ends with: the tables of its reports, and where everything is."""
    done = [step for step in plan.steps if step.manifest is not None]
    reports = [step for step in done if type(step.config).makes == "report"] or done[-1:]
    parts = [table_text(table) for step in reports for table in getattr(result_of(step.folder), "tables", [])]
    places = [
        (step.name, relative(plan.run.path / step.name / "artifact"), numbers(step.manifest["metrics"])) for step in done if step.manifest
    ]
    return "\n\n".join([*parts, columns(places)])
