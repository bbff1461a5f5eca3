"""Plans, results and tables as text for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.jobs import relative
from pipeline.lock import held_by
from pipeline.plan import Plan, Step
from pipeline.progress import number, numbers
from pipeline.publishing import MAIN, YOU
from pipeline.results import result_of
from stages.contract import Table


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns, the last one as long as it likes."""
    table = [list(row) for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)] if table else []
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def plan_text(plan: Plan) -> str:
    """A line a stage, what will be published, and who works on the run now."""
    parts = [columns((step.name, step.kind, step.action, step.reason) for step in plan.steps)]
    if plan.recipe.publish is not None:
        places = columns((f"  {one['stage']}", _place_text(one)) for one in publishing_json(plan))
        parts.append(f"{plan.recipe.publish.manner}\n{places}")
    if held := held_by(plan.run.lock):
        parts.append(f"{plan.run.path} is {held}")
    return "\n".join(parts)


def plan_json(plan: Plan) -> dict[str, Any]:
    stages = [_step_json(step) for step in plan.steps]
    where = {"run": str(plan.run.path), "held": held_by(plan.run.lock)}
    return {"name": plan.recipe.name, **where, "stages": stages, "publish": publishing_json(plan)}


def publishing_json(plan: Plan) -> list[dict[str, str]]:
    """Where each stage goes that the recipe publishes at the end of the run; nothing where it publishes none."""
    how = plan.recipe.publish
    if how is None:
        return []
    makes = {name: config.makes for name, config in plan.recipe.stages.items()}
    found = []
    for stage in how.chosen(makes):
        repository, revision, folder = how.address(how.owner or YOU, plan.run.path.resolve().name, stage)
        found.append({"stage": stage, "repository": repository, "revision": revision, "folder": folder})
    return found


def _place_text(one: Mapping[str, str]) -> str:
    inside = f", folder {one['folder']}" if one["folder"] else ""
    return one["repository"] + (f", branch {one['revision']}" if one["revision"] != MAIN else "") + inside


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


def summary(plan: Plan) -> str:
    """What a finished run ends with: the tables of its reports, and where everything is."""
    done = [step for step in plan.steps if step.manifest is not None]
    reports = [step for step in done if type(step.config).makes == "report"] or done[-1:]
    parts = [table_text(table) for step in reports for table in getattr(result_of(step.folder), "tables", ())]
    places = [
        (step.name, relative(plan.run.path / step.name / "artifact"), numbers(step.manifest["metrics"])) for step in done if step.manifest
    ]
    return "\n\n".join([*parts, columns(places)])
