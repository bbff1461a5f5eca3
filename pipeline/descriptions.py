"""The sentence under each field of a settings class, read from its source when somebody asks.

Pydantic can do this while a class is made, which costs every command 0.07 s of CPU, and nearly none of them shows a description.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.complaints import arms_of


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field name to its docstring, those of parent classes included; a field without one is left out."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if issubclass(parent, BaseModel) and parent is not BaseModel:
            found |= _own(parent)
    return {name: text for name, text in found.items() if name in model.model_fields}


def _own(model: type[BaseModel]) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError):  # a class without a source file
        return {}
    found = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings class that a type can hold, at any depth."""
    for arm in arms_of(annotation):
        if isinstance(arm, type) and issubclass(arm, BaseModel):
            yield arm
            for info in arm.model_fields.values():
                yield from models_in(info.annotation)
        else:
            for inner in get_args(arm):
                yield from models_in(inner)
