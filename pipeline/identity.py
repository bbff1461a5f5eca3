"""Identity: what a stage computes, as canonical text, and its fingerprint.

    fingerprint = sha256(kind, version, settings, contents of inputs, seed)[:12]

References stand by the fingerprint of what they name, data by its content, code by its content; paths, names of stages and every field
marked `Context` bear none. What has no canonical form raises: a `str()` of it would make two different things equal, or one thing two.
"""

import ast
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data.config import Source
from data.errors import DataError
from pipeline.artifacts import folder_digest, inspect
from pipeline.errors import Problem, RecipeError, suggestion
from pipeline.recipe import Recipe
from pipeline.references import HUB, Field, Reference, children, is_context, references
from stages.adapters.bases import is_repository
from stages.core.files import digest as file_digest

CODE = re.compile(r"([^:\n]+\.py):([A-Za-z_]\w*)\Z")
"""A function in a file of the user's: `file.py:function`."""


@dataclass(frozen=True)
class Identity:
    """What a stage computes."""

    value: dict[str, Any]
    """Canonical: mappings, lists, texts, whole numbers, floats, truth values and nulls."""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(canonical_json(self.value).encode()).hexdigest()[:12]


def canonical_json(value: Any) -> str:
    """One text for one value. Raises TypeError or ValueError for a value without one."""
    _refuse(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be texts to have a canonical form: {list(value)}")
        for item in value.values():
            _refuse(item)
    elif isinstance(value, list):
        for item in value:
            _refuse(item)
    elif type(value) not in (str, int, float, bool, type(None)) or (type(value) is float and not math.isfinite(value)):
        raise TypeError(f"no canonical form: {value!r} ({type(value).__name__})")


def identity_of(recipe: Recipe, stage: str, known: Mapping[str, Identity], pins: Mapping[str, str]) -> Identity:
    """Identity of one stage, from the data as it is now; `known` has those of the stages above."""
    problems: list[Problem] = []
    identity = Identity(_Reader(recipe, stage, known, pins, problems).identity())
    if problems:
        raise RecipeError(problems)
    return identity


def identities(recipe: Recipe, pins: Mapping[str, str] | None = None) -> dict[str, Identity]:
    """Identity of every stage; `pins` has the commits of Hub repositories. Raises RecipeError with all data that cannot be found."""
    known: dict[str, Identity] = {}
    problems: list[Problem] = []
    for name in recipe.stages:
        reader = _Reader(recipe, name, known, pins or {}, problems)
        known[name] = Identity(reader.identity())
    if problems:
        raise RecipeError(problems)
    return known


def missing(recipe: Recipe) -> list[Problem]:
    """Data, folders and code that a recipe names and that are not there, though some of its settings may be wrong."""
    problems: list[Problem] = []
    made = (reference.value for config in recipe.stages.values() for reference in references(config) if reference.form == "stage")
    unknown = dict.fromkeys(made, Identity({}))
    for name in recipe.stages:
        _Reader(recipe, name, unknown, {}, problems).identity()
    return problems


class _Reader:
    """Turns one stage's settings into their canonical form."""

    def __init__(self, recipe: Recipe, stage: str, known: Mapping[str, Identity], pins: Mapping[str, str], problems: list[Problem]) -> None:
        self.recipe, self.stage, self.known, self.pins, self.problems = recipe, stage, known, pins, problems

    def identity(self) -> dict[str, Any]:
        config = self.recipe.stages[self.stage]
        settings = self._canonical(Field("", config, ()), type(config))
        kind = settings.pop("kind")
        return {"kind": kind, "version": config.version, "seed": self.recipe.seed, "config": settings}

    def _canonical(self, field: Field, annotation: Any) -> Any:
        value = field.value
        if isinstance(value, Source):
            return self._source(field, value)
        if isinstance(value, str) and (reference := field.reference()) is not None:
            return self._artifact(reference)
        if isinstance(value, str) and (code := CODE.match(value)):
            return self._code(field, code[1], code[2])
        inner = list(children(field, annotation))
        if isinstance(value, BaseModel | dict):
            names = list(type(value).model_fields if isinstance(value, BaseModel) else value)
            return {name: self._canonical(*child) for name, child in zip(names, inner, strict=True) if not is_context(child[0])}
        if isinstance(value, list | tuple):
            return [self._canonical(*child) for child in inner]
        return value

    def _artifact(self, reference: Reference) -> dict[str, str]:
        if reference.form == "stage":
            return {"artifact": self.known[reference.value].fingerprint}
        if reference.form == "hub":
            return {"hub": pinned("model", reference.value, self.pins)}
        folder = self.recipe.root / reference.value
        found = inspect(folder)
        if isinstance(found, str):
            meant = not folder.exists() and is_repository(reference.value)
            self._problem(reference.field, f"{found}; the Hub repository is {HUB}{reference.value}" if meant else found)
            return {}
        if found.kind not in reference.kinds:
            self._problem(reference.field, f"{folder} holds a {found.kind}; wanted {' or '.join(reference.kinds)}")
        return {"files": folder_digest(folder)}

    def _source(self, field: Field, source: Source) -> dict[str, Any]:
        plain = {
            name: child
            for name, child in zip(type(source).model_fields, children(field, Source), strict=True)
            if name not in ("path", "stage")
        }
        settings = {name: self._canonical(*child) for name, child in plain.items()}
        return {**self._content(field, source), **settings}

    def _content(self, field: Field, source: Source) -> dict[str, Any]:
        from data.sources import digest, resolve

        if source.stage is not None and source.stage in self.known:
            return {"artifact": self.known[source.stage].fingerprint, "path": source.path}
        if source.path.startswith(HUB):
            return {"hub": pinned("dataset", source.path, self.pins)}
        try:
            folder = self.recipe.root / source.stage if source.stage else None
            return {"files": digest(resolve(source, self.recipe.root, folder))}
        except (DataError, OSError) as error:
            self._problem(f"{field.path}.path", f"{error}{self._of_stage(source)}")
            return {}

    def _of_stage(self, source: Source) -> str:
        """How data of a stage are written, where their path begins with the stage's name."""
        stage, _, inside = source.path.partition("/")
        meant = source.stage is None and stage in list(self.recipe.stages)[: list(self.recipe.stages).index(self.stage)]
        return f"; '{stage}' is a stage, whose data are written {{stage: {stage}, path: {inside or 'FILE'}}}" if meant else ""

    def _code(self, field: Field, file: str, function: str) -> dict[str, str]:
        path = self.recipe.root / file
        if not path.is_file():
            self._problem(field.path, f"there is no file {path}")
            return {}
        if (complaint := _without(path, function)) is not None:
            self._problem(field.path, complaint)
        return {"code": file_digest(path), "function": function}

    def _problem(self, field: str, message: str) -> None:
        self.problems.append(self.recipe.problem(self.stage, field, message))


def _without(file: Path, function: str) -> str | None:
    """Why a Python file has no such function, found out without running it; None if it may have one."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        return f"{file} is not a Python file that can be read: {error}"
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    others = any(not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.Expr) for node in tree.body)
    if function in names or (others and function in file.read_text(encoding="utf-8", errors="replace")):
        return None
    return f"{file} has no function '{function}' (it has {', '.join(sorted(names)) or 'none'}){suggestion(function, names)}"


def pinned(kind: str, name: str, pins: Mapping[str, str]) -> str:
    """A `hub:` name with the commit that the run has settled on, where it has."""
    wanted, _, rest = name.removeprefix(HUB).partition(":")
    commit = pins.get(f"{kind} {wanted}")
    settled = f"{HUB}{wanted.partition('@')[0]}@{commit}" if commit else f"{HUB}{wanted}"
    return f"{settled}:{rest}" if rest else settled
