"""Columns of a row: under which names a field is read, which format they make. Pure: dictionaries in, words out; imports nothing of ours."""

import difflib
from collections.abc import Mapping
from typing import Any


class MisfitError(ValueError):
    """A row that its format cannot read: `what` is the same for every such row, `found` belongs to this one."""

    def __init__(self, what: str, found: str, wanted: str) -> None:
        super().__init__(f"{what}: found {found}; wanted {wanted}")
        self.what, self.found, self.wanted = what, found, wanted


UNKNOWN = "no known format"
"""What is wrong with a row whose columns no format has."""
ALIASES: dict[str, tuple[str, ...]] = {
    "text": ("text", "content", "document"),
    "messages": ("messages", "conversations", "conversation"),
    **{name: (name,) for name in ("instruction", "input", "history", "margin", "nats")},
    "output": ("output", "response"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "solution", "response"),
    "prompt": ("prompt", "question", "query", "instruction"),
    "completion": ("completion", "response", "answer", "output"),
    "chosen": ("chosen", "preferred"),
    "rejected": ("rejected", "dispreferred"),
    "responses": ("responses", "completions", "answers", "candidates"),
    "scores": ("scores", "ratings"),
    "ranks": ("ranks", "rank", "ranking"),
    "reference": ("reference", "ground_truth", "answer", "solution", "target", "label"),
}
"""Our name of a field, and the column names that are taken for it, best first."""

NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "alpaca": ("instruction", "output"),
    **dict.fromkeys(("sharegpt", "messages"), ("messages",)),
    "prompt-completion": ("prompt", "completion"),
    "question-answer": ("question", "answer"),
    "preference": ("chosen", "rejected"),
    "ranked": ("prompt", "responses"),
    "prompt": ("prompt",),
}
"""Columns without which a row cannot have a format."""


def get(row: Mapping[str, Any], name: str) -> Any:
    """Value of our field `name` under any of its spellings; None where absent or null."""
    return next((row[alias] for alias in ALIASES[name] if row.get(alias) is not None), None)


def need(row: Mapping[str, Any], name: str) -> Any:
    """As `get`, but an absent field is a MisfitError that names the nearest column."""
    value = get(row, name)
    if value is None:
        if empty := [alias for alias in ALIASES[name] if alias in row]:
            raise MisfitError(f"column '{empty[0]}' is empty", "null", "a value")
        close = difflib.get_close_matches(name, map(str, row), n=1, cutoff=0.5)
        hint = f" ('{close[0]}' comes near: `columns: {{{name}: {close[0]}}}`?)" if close and close[0] != name else ""
        raise MisfitError(f"no column '{name}'", f"columns {columns_of(row)}{hint}", " or ".join(ALIASES[name]))
    return value


def columns_of(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} (null)" if value is None else str(name) for name, value in row.items()) or "none"


def nearby(row: Mapping[str, Any]) -> str:
    """The first column of a row that comes near to one which some format needs, and how the recipe says so."""
    needed = dict.fromkeys(name for names in NEEDS.values() for name in names)
    near = (
        (column, difflib.get_close_matches(str(column), needed, n=1, cutoff=0.75)) for column, value in row.items() if value is not None
    )
    return next((f" ('{column}' comes near: `columns: {{{names[0]}: {column}}}`?)" for column, names in near if names), "")


def detect(value: Mapping[str, Any] | str) -> tuple[str, str]:
    """Format of a row, and why. Raises MisfitError if no format fits."""
    if isinstance(value, str):
        return "text", "plain text"
    said = get(value, "messages")
    rules = [
        ("preference", True, "columns 'chosen' and 'rejected'"),
        ("ranked", isinstance(get(value, "responses"), list), "a prompt and a list of responses"),
        ("sharegpt", _speaks(said, "from"), "turns with 'from' and 'value'"),
        ("messages", _speaks(said, "role"), "turns with 'role' and 'content'"),
        ("alpaca", True, "columns 'instruction' and 'output'"),
        ("question-answer", True, "columns 'question' and 'answer'"),
        ("prompt-completion", True, "a prompt and its completion"),
        ("prompt", True, "a prompt without an answer"),
        ("text", True, "a column of text"),
    ]
    for name, fits, why in rules:
        if fits and all(get(value, column) is not None for column in NEEDS[name]):
            return name, why
    packed = next((mark for mark in ";|\t" if len(value) == 1 and mark in next(iter(map(str, value)))), None)
    if packed is not None:
        raise MisfitError("one column that looks like several", f"column {columns_of(value)!r}", f"commas between columns, not {packed!r}")
    raise MisfitError(UNKNOWN, f"columns {columns_of(value)}", "`format` and `columns` in the recipe (docs/data-formats.md)")


def _speaks(turns: Any, key: str) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and key in turns[0]


def mapped(value: Mapping[str, Any] | str, columns: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    row = dict(value)
    for ours, theirs in columns.items():
        row[ALIASES[ours][0] if ours in ALIASES else ours] = _reach(value, theirs)  # the first alias wins over a column of a known name
    return row


def _reach(value: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path; a whole name that contains dots wins."""
    here: Any = value
    for part in [path] if path in value else path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            names = [str(name) for name in here] if isinstance(here, Mapping) else []
            close = difflib.get_close_matches(part, names, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise MisfitError(f"no column '{path}'", f"{', '.join(names) or type(here).__name__}{hint}", f"'{part}', as `columns` says")
        here = here[part]
    return here
