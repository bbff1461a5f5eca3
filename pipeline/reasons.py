"""Why a stage runs: what differs between two identities. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.complaints import shown

MOST = 3
"""Differences told in one reason."""


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of an identity by dotted path; empty mappings and lists are leaves."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What changed, settings first; `names` says which stage a dotted field refers to."""
    before, after = dict(flat(dict(old))), dict(flat(dict(new)))
    own: list[str] = []
    inherited: list[str] = []
    for path in [*after, *(path for path in before if path not in after)]:
        if path in before and path in after and before[path] == after[path]:
            continue
        field, _, leaf = path.removeprefix("config.").rpartition(".")
        if leaf == "artifact" and field:
            inherited.append(f"{names.get(field) or names.get(f'{field}.stage', field)} changes")
        elif leaf in ("files", "hub", "code") and field:
            own.append(f"{field} has new content" if path in before and path in after else f"{field} is another")
        else:
            own.append(_change(path.removeprefix("config."), before, after, path))
    told = list(dict.fromkeys(own + inherited))
    return told if len(told) <= MOST else [*told[:MOST], f"and {len(told) - MOST} more"]


def _change(name: str, before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> str:
    if path not in before:
        return f"{name} {_short(after[path])} is new"
    if path not in after:
        return f"{name} {_short(before[path])} is gone"
    return f"{name} {_short(before[path])} -> {_short(after[path])}"


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else shown(value, 40)
