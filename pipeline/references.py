"""What a stage takes: references to artifacts and sources of data, found in any settings class by its annotations.

A text field marked `Takes` is a reference: the name of a stage above, a local folder (it has a `/` or starts with `.`), or
`hub:owner/name[@revision]`. A `Source` is data. Adding a stage needs no edit here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from data.config import Context, Source, Takes, Wants
from pipeline.complaints import arms_of, models_at
from pipeline.errors import Problem, suggestion
from pipeline.reading import Document
from stages.core.config import StageConfig

HUB = "hub:"
_HUB_NAME = re.compile(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?\Z")


@dataclass(frozen=True)
class Reference:
    """One artifact that a field asks for."""

    field: str
    """Dotted path in the stage's settings."""
    value: str
    kinds: tuple[str, ...]
    """Artifact kinds that fit."""

    @property
    def form(self) -> str:
        """`stage`, `folder` or `hub`."""
        if self.value.startswith(HUB):
            return "hub"
        return "folder" if "/" in self.value or self.value.startswith(".") else "stage"


@dataclass(frozen=True)
class Field:
    """One value somewhere in a stage's settings, with the marks of its annotation."""

    path: str
    value: Any
    marks: tuple[Any, ...]

    def reference(self) -> Reference | None:
        takes = next((mark for mark in self.marks if isinstance(mark, Takes)), None)
        return Reference(self.path, self.value, takes.kinds) if takes and isinstance(self.value, str) else None


def children(field: Field, annotation: Any) -> Iterator[tuple[Field, Any]]:
    """The values one level inside a field, with their annotations; nothing for a plain value. Reads settings before validation too."""
    value = field.value
    model = (
        type(value) if isinstance(value, BaseModel) else next(models_at(annotation, (), value), None) if isinstance(value, dict) else None
    )
    if model is not None:
        for name, info in model.model_fields.items():
            inside = getattr(value, name) if isinstance(value, BaseModel) else value.get(name)
            marks = (*info.metadata, *marks_of(info.annotation))
            yield Field(_join(field.path, name), inside, marks), info.annotation
    elif isinstance(value, list | tuple | dict):
        inner = _inner(annotation, dict if isinstance(value, dict) else None)
        inherited = tuple(mark for mark in field.marks if isinstance(mark, Wants))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield Field(_join(field.path, str(key)), item, (*marks_of(inner), *inherited)), inner


def marks_of(annotation: Any) -> tuple[Any, ...]:
    """Marks that stand beside a type, or beside one of the types it may be."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return (*marks, *marks_of(inner))
    return tuple(mark for arm in _union(annotation) for mark in marks_of(arm))


def _union(annotation: Any) -> tuple[Any, ...]:
    arms = get_args(annotation)
    return arms if arms and get_origin(annotation) not in (tuple, list, dict, Annotated) and not isinstance(arms[0], str) else ()


def _inner(annotation: Any, mapping: type | None) -> Any:
    """The type of the items of a list, tuple or mapping."""
    for arm in arms_of(annotation):
        if (get_origin(arm) is dict) == (mapping is dict) and get_args(arm):
            return get_args(arm)[-1 if mapping else 0]
    return Any


def is_context(field: Field) -> bool:
    """Whether a field says how and not what; such a field bears no identity."""
    return any(isinstance(mark, Context) or mark is Context for mark in field.marks)


def fields(config: BaseModel | dict[str, Any], model: type[BaseModel] | None = None) -> Iterator[Field]:
    """Every value in a stage's settings, outermost first; `model` says what a mapping is that has not been validated."""
    waiting: list[tuple[Field, Any]] = [(Field("", config, ()), model or type(config))]
    while waiting:
        field, annotation = waiting.pop()
        yield field
        waiting += reversed(list(children(field, annotation)))


def references(config: BaseModel | dict[str, Any], model: type[BaseModel] | None = None) -> Iterator[Reference]:
    """Artifacts that a stage takes, in the order of its fields."""
    for field in fields(config, model):
        if (reference := field.reference()) is not None:
            yield reference


def sources(config: BaseModel) -> Iterator[tuple[str, Source]]:
    """Data that a stage reads, by dotted field path."""
    return ((path, source) for path, source, _ in wanted_sources(config))


def wanted_sources(config: BaseModel) -> Iterator[tuple[str, Source, str | None]]:
    """Data that a stage reads, and the record that it makes of each row, where its settings say so."""
    for field in fields(config):
        if isinstance(field.value, Source):
            yield field.path, field.value, next((mark.record for mark in field.marks if isinstance(mark, Wants)), None)


def reference_problems(models: Mapping[str, type[StageConfig] | None], document: Document) -> list[Problem]:
    """What is wrong with the references of a recipe, as far as the recipe alone can tell; `models` has every stage, None where unknown."""
    problems = []
    above: dict[str, str | None] = {}
    for name, model in models.items():
        written = document.value["stages"][name]
        for reference in references(written, model) if model and isinstance(written, dict) else ():
            complaint = _complaint(reference, above, list(models))
            if complaint:
                path = ("stages", name, *(int(part) if part.isdecimal() else part for part in reference.field.split(".")))
                problems.append(Problem(document.place(path), f"stages.{name}.{reference.field}", complaint))
        above[name] = model.makes if model else None
    return problems


def _complaint(reference: Reference, above: Mapping[str, str | None], names: list[str]) -> str | None:
    wanted = " or ".join(reference.kinds)
    if reference.form == "hub":
        return None if _HUB_NAME.match(reference.value) else f"found '{reference.value}', wanted hub:owner/name or hub:owner/name@revision"
    if reference.form == "folder":
        return None
    if reference.value in above:
        made = above[reference.value]
        return f"'{reference.value}' makes a {made}; wanted {wanted}" if made is not None and made not in reference.kinds else None
    if reference.value in names:
        return f"'{reference.value}' does not stand above this stage; a stage takes only from the stages above it"
    fitting = [other for other, made in above.items() if made in reference.kinds]
    near = suggestion(reference.value, fitting) or suggestion(reference.value, above)
    stand = ", ".join(fitting) or "none"
    return f"no stage '{reference.value}' above this one (a {wanted} comes from: {stand}){near}; a folder is written ./name, a Hub repository hub:owner/name"


def repository(name: str) -> str:
    """`owner/name[@revision]` of a `hub:` name."""
    return name.removeprefix(HUB).partition(":")[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
