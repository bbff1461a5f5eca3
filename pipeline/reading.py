"""Reads YAML strictly, and remembers where everything stands.

YAML 1.2 (so `1e-5` is a number and `no` is a text), equal keys are errors, and a file that would unfold into something huge, deep or
endless is refused. Works on the node graph, whose nodes know their lines, before anything is built from it.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pipeline.errors import Problem, RecipeError, nearest

MAX_BYTES = 100_000
"""A recipe is a few kilobytes; the scanner, in pure Python, takes about a second for this much."""
MAX_NODES = 20_000
"""Values after aliases are unfolded."""
MAX_DEPTH = 40

Place = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"


@dataclass
class Document:
    """Plain values, and where each stands."""

    value: Any
    places: dict[Place, str] = field(default_factory=dict)
    """`file:line` by path; for a key of a mapping, the line of the key."""
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Place) -> str:
        """Where a path stands; for one that is not written, where its nearest parent does."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")


def dotted(path: Place) -> str:
    return ".".join(map(str, path))


def read_recipe(file: Path, shown: str) -> tuple[str, Document]:
    """Text and content of a recipe file. Raises RecipeError if it cannot be read or is not YAML."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        near = "" if file.exists() else nearest_file(file)
        raise RecipeError(f"{shown}: cannot be read: {error.strerror or error}{near}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{shown}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{shown}: larger than {MAX_BYTES:,} bytes, which no recipe needs; is it another file?")
    return text, read_yaml(text, shown)


def nearest_file(file: Path) -> str:
    """`; did you mean 'recipes/demo.yaml'?`: what stands nearest to a path that is not there."""
    if not file.parent.is_dir():
        return f"; there is no folder '{file.parent}'"
    near = nearest(file.name, [entry.name for entry in file.parent.iterdir()])
    return f"; did you mean '{file.with_name(near)}'?" if near else ""


def read_yaml(text: str, name: str) -> Document:
    """Plain values of one YAML document. Raises RecipeError if it is not YAML; what else is wrong is in `problems`."""
    directive = re.search(r"^%", text, re.MULTILINE)
    if directive:
        line = text.count("\n", 0, directive.start()) + 1
        raise RecipeError([Problem(f"{name}:{line}", "", "directives are not used in recipes, which are YAML 1.2; remove the line")])
    if deep := re.search(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}", text):
        # The scanner's work grows with the square of the open brackets, so this is seen before it starts.
        line = text.count("\n", 0, deep.start()) + 1
        raise RecipeError([Problem(f"{name}:{line}", "", f"nested too deeply; at most {MAX_DEPTH} levels are read")])
    builder = _Builder(name)
    node = _compose(text, name)
    if node is None:
        return Document(None)
    try:
        value = builder.build(node, (), ())
    except _TooMuchError as error:
        raise RecipeError([error.problem]) from error
    return Document(value, builder.places, builder.problems)


def _compose(text: str, name: str) -> Node | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            return YAML(typ="safe", pure=True).compose(text)  # type: ignore[no-any-return]
    except RecursionError as error:
        raise RecipeError(f"{name}: nested too deeply; at most {MAX_DEPTH} levels are read") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        if "found character '\\t'" in what:
            what = "a tab stands where blanks indent; replace it with blanks"
        if "undefined alias" in what:
            what += "; a text that begins with * or &, such as '*.jsonl', wants quotes"
        raise RecipeError([Problem(where, "", f"not valid YAML: {what}")]) from error
    except YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


class _TooMuchError(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _Builder:
    """Builds plain values from nodes and notes lines and problems on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Place, str] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: Node, path: Place, inside: tuple[int, ...]) -> Any:
        self.places.setdefault(path, self._where(node))
        self._limit(node, path, inside)
        inside = (*inside, id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path, inside)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index), inside) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _limit(self, node: Node, path: Place, inside: tuple[int, ...]) -> None:
        self.nodes += 1
        complaint = None
        if id(node) in inside:
            complaint = "an alias refers to the value that it is part of"
        elif len(inside) > MAX_DEPTH:
            complaint = f"nested too deeply; at most {MAX_DEPTH} levels are read"
        elif self.nodes > MAX_NODES:
            complaint = f"unfolds into more than {MAX_NODES:,} values"
        if complaint:
            raise _TooMuchError(Problem(self._where(node), dotted(path[:6]), complaint))

    def _mapping(self, node: MappingNode, path: Place, inside: tuple[int, ...]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                for part in self._merged(value_node, path):
                    merged = self.build(part, path, inside) | merged
                continue
            key = self._key(key_node, path)
            here = (*path, key)
            if key in own:
                earlier = self.places[here].rpartition(":")[2]
                self._problem(key_node, here, f"written twice in one mapping (first on line {earlier}); keep one")
                continue
            self.places[here] = self._where(key_node)
            own[key] = self.build(value_node, here, inside)
        return merged | own

    def _merged(self, node: Node, path: Place) -> Iterator[MappingNode]:
        """Mappings that `<<:` takes in; earlier ones win."""
        for part in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(part, MappingNode):
                yield part
            else:
                self._problem(part, (*path, "<<"), "wanted a mapping, or a list of mappings, to take in")

    def _key(self, node: Node, path: Place) -> str:
        if isinstance(node, ScalarNode):
            return str(node.value)
        self._problem(node, path, "a key must be a text, not a list or a mapping")
        return f"line {node.start_mark.line + 1}"

    def _scalar(self, node: Node, path: Place) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text.replace("_", ""), 0 if text.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)
                case "float":
                    return _number(text)
                case "str" | "timestamp" | "binary":
                    return text
        except ValueError as error:
            self._problem(node, path, f"found {text[:40]}: {error}")
            return None
        self._problem(node, path, f"found the tag {node.tag}; recipes use no tags")
        return None

    def _where(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def _problem(self, node: Node, path: Place, message: str) -> None:
        self.problems.append(Problem(self._where(node), dotted(path), message))


def _number(text: str) -> int | float:
    """A float; but `2e6`, which people write for whole numbers, is one."""
    text = text.replace("_", "").lower()
    if text.lstrip("+-") in (".inf", ".nan"):
        return float(text.replace(".", ""))
    value = float(text)
    return int(value) if "e" in text and abs(value) < 2**53 and value.is_integer() else value
