"""Says pydantic's errors in the recipe's words: where, what was found, what was wanted, and the nearest name."""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.errors import Problem, by_nearness, suggestion
from pipeline.names import IN_WORDS
from pipeline.reading import Document, Place, dotted

_CONTAINERS = ("dict_type", "model_type", "tuple_type", "list_type")
_SCALARS = ("string_type", "int_type", "float_type", "bool_type", "literal_error")


def complaints(error: ValidationError, model: type[BaseModel], document: Document, prefix: Place) -> list[Problem]:
    """Problems of one validated mapping that stands at `prefix` in the document."""
    found: dict[Place, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        path = _written(item["loc"], document, prefix, item["type"])
        found.setdefault(path, []).append(dict(item))
    problems = []
    for path, items in found.items():
        inner = any(other != path and other[: len(path)] == path for other in found)
        problems += _at(path, items, model, document, prefix, inner=inner)
    return problems


def _written(loc: tuple[Any, ...], document: Document, prefix: Place, kind: str) -> Place:
    """The path as the recipe has it: pydantic puts names of union arms into it, which nobody wrote."""
    value = _value(document, prefix)
    path = prefix
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(value, dict) and (part in value or (last and kind == "missing")):
            path, value = (*path, part), value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = (*path, part), value[part]
    return path


def _value(document: Document, path: Place) -> Any:
    value = document.value
    for part in path:
        value = value[part]
    return value


def _at(
    path: Place, items: list[dict[str, Any]], model: type[BaseModel], document: Document, prefix: Place, *, inner: bool
) -> list[Problem]:
    """Problems at one place. Where a union was tried, only the arms that the value looks like are told of."""
    where, name = document.place(path), dotted(path)
    special = [
        _special(item, path, model, document, prefix) for item in items if item["type"] in ("extra_forbidden", "missing", "value_error")
    ]
    if special:
        return [Problem(where, name, message) for message in dict.fromkeys(special)]
    value = items[0]["input"]
    fitting = [item for item in items if _fits(item["type"], value)]
    if inner and not [item for item in fitting if item["type"] != "too_short"]:  # what is wrong inside is told by itself
        return []
    wanted = list(dict.fromkeys(_wanted(item) for item in fitting or items))
    inside = path[len(prefix) :]
    hint = _hint(value, items) or _as_source(value, model, inside) or _as_what_is_wanted(value, wanted, model, inside)
    return [Problem(where, name, f"found {shown(value)}, wanted {' or '.join(wanted)}{hint}")]


def _fits(kind: str, value: object) -> bool:
    """Whether an arm of a union that failed in this way is one that the value looks like."""
    scalar = not isinstance(value, dict | list)
    return scalar if kind in _SCALARS else not scalar if kind in _CONTAINERS else True


def _special(item: dict[str, Any], path: Place, model: type[BaseModel], document: Document, prefix: Place) -> str:
    if item["type"] == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    value = _value(document, path[:-1])
    parents = list(models_at(model, path[len(prefix) : -1], value))
    if item["type"] == "missing":
        from pipeline.descriptions import descriptions

        description = next((text for parent in parents if (text := descriptions(parent).get(item["loc"][-1]))), None)
        return "is missing" + (f": {' '.join(description.split())}" if description else "")
    known = list(dict.fromkeys(name for parent in parents for name in parent.model_fields))
    before, colon, after = str(path[-1]).partition(":")
    if colon and before in known:
        return f"unknown key; a blank is missing behind the colon: {before}: {after}"
    meant = [f"{field}.{path[-1]}" for parent in parents for field in _holders(parent, path[-1])]
    hint = f"; did you mean '{meant[0]}'?" if meant else suggestion(path[-1], known)
    return f"unknown key{hint} (known: {', '.join(by_nearness(path[-1], known)) or 'none'})"


def _holders(model: type[BaseModel], key: str | int) -> Iterator[str]:
    """Fields of a mapping whose own mapping has this key: where a key stands that was written one level too high."""
    for name, field in model.model_fields.items():
        if any(isinstance(arm, type) and issubclass(arm, BaseModel) and key in arm.model_fields for arm in arms_of(field.annotation)):
            yield name


def _wanted(item: dict[str, Any]) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "literal_error":
            return str(context["expected"])
        case "model_type" | "dict_type":
            return "a mapping"
        case "union_tag_invalid":
            kinds = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            return f"a mapping, such as {{kind: {item['input'] if item['input'] in kinds else kinds[0]}}}"
        case "tuple_type" | "list_type":
            return "a list"
        case "string_type":
            return "a text"
        case "int_type" | "int_from_float":
            return "a whole number"
        case "float_type":
            return "a number"
        case "bool_type":
            return "true or false"
        case "too_short":
            return f"at least {context['min_length']} of them"
        case "string_pattern_mismatch":
            return IN_WORDS.get(context["pattern"], f"a text like {context['pattern']}")
    message = str(item["msg"])
    return message.removeprefix("Input should be ").removeprefix("Value should be ")


def _hint(value: object, items: list[dict[str, Any]]) -> str:
    if isinstance(value, str):
        expected = [
            word.strip("' ")
            for item in items
            if item["type"] == "literal_error"
            for word in item["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        if expected:
            return suggestion(value, expected)
        if any(item["type"] in ("int_type", "float_type", "bool_type") for item in items) and value.replace(".", "").isalnum():
            return "; a number in quotes is a text" if value.replace(".", "").isdigit() else ""
    return ""


def _as_source(value: object, model: type[BaseModel], path: Place) -> str:
    """How a file is written where data are wanted, and its bare name or a single source was given."""
    file = value.get("path") if isinstance(value, dict) else value
    if not isinstance(file, str):
        return ""
    for place, written in ((path, f"{{path: {file}}}"), ((*path, 0), f"[{{path: {file}}}]")):
        if any("path" in found.model_fields for found in models_at(model, place, {})):
            return f", such as {written}"
    return ""


def _as_what_is_wanted(value: object, wanted: list[str], model: type[BaseModel], path: Place) -> str:
    """The keys of a mapping, or how a list of one is written, where a single value was given."""
    if isinstance(value, dict | list) or value is None:
        return ""
    if wanted == ["a list"] and not isinstance(value, bool) and not any(models_at(model, (*path, 0), {})):
        return f", such as [{value}]"
    known = [name for found in models_at(model, path, {}) for name in found.model_fields] if wanted == ["a mapping"] else []
    return f" (of {', '.join(dict.fromkeys(known))})" if known else ""


def shown(value: object, width: int = 60) -> str:
    """A value as the recipe would write it, cut to one short line."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= width else text[: width - 1] + "…"


def models_at(annotation: Any, path: Place, value: object) -> Iterator[type[BaseModel]]:
    """Models that may stand at a path below an annotation; an arm of a union whose `kind` differs from the value's is left out."""
    arms = list(arms_of(annotation))
    if not path:
        models = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)]
        kind = value.get("kind") if isinstance(value, dict) else None
        yield from [arm for arm in models if "kind" in arm.model_fields and arm.model_fields["kind"].default == kind] or models
        return
    step, rest = path[0], path[1:]
    for arm in arms:
        if isinstance(arm, type) and issubclass(arm, BaseModel):
            if step in arm.model_fields:
                yield from models_at(arm.model_fields[str(step)].annotation, rest, value)
        elif get_args(arm):
            yield from models_at(get_args(arm)[-1 if get_origin(arm) is dict else 0], rest, value)


def arms_of(annotation: Any) -> Iterator[Any]:
    """What a type may be, without `Annotated` and `|`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from arms_of(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for arm in get_args(annotation):
            yield from arms_of(arm)
    else:
        yield annotation
