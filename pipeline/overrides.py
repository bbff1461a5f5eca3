"""`key=value` on the command line: sets any field of a recipe by its dotted path. Values are YAML."""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import Problem, RecipeError, suggestion
from pipeline.reading import Document, Place, dotted, read_yaml


def apply(document: Document, overrides: Sequence[str]) -> None:
    """Changes the document in place; what cannot be applied becomes a problem."""
    for override in overrides:
        where = f"'{override}'"
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            _add(document, where, "", "wanted key=value, such as stages.chat.epochs=3")
            continue
        try:
            given = read_yaml(text, where)
        except RecipeError as error:
            document.problems += [Problem(where, key, problem.message) for problem in error.problems]
            continue
        document.problems += [Problem(where, key, problem.message) for problem in given.problems]
        _set(document, key.strip(), given.value, where)


def _set(document: Document, key: str, value: Any, where: str) -> None:
    container: Any = document.value
    path: Place = ()
    words = key.split(".")
    while words:
        word, words = _next(container, words)
        at: str | int | None = word
        if isinstance(container, list):
            at = _index(document, container, path, word, where)
        elif not isinstance(container, dict):
            _add(document, where, dotted(path), f"is {container!r}, which has no field '{word}'")
            return
        elif path == ("stages",) and word not in container:
            _add(document, where, f"stages.{word}", f"no stage has this name (stages: {', '.join(container)}){suggestion(word, container)}")
            return
        if at is None:
            return
        path = (*path, at)
        if words and isinstance(container, dict) and container.get(at) is None:
            document.places[path] = where
        container = _step(container, at, value, last=not words)
    _forget(document, path)
    document.places[path] = where


def _next(container: Any, words: list[str]) -> tuple[str, list[str]]:
    """The next key; names of stages may hold dots, so the longest key that is there wins."""
    if isinstance(container, dict):
        for count in range(len(words), 1, -1):
            joined = ".".join(words[:count])
            if joined in container:
                return joined, words[count:]
    return words[0], words[1:]


def _step(container: Any, at: str | int, value: Any, *, last: bool) -> Any:
    """Sets the value, or goes one level down, making the mapping that is not written yet."""
    if last:
        container[at] = value
    elif isinstance(container, dict) and container.get(at) is None:
        container[at] = {}
    return container[at]


def _index(document: Document, container: list[Any], path: Place, word: str, where: str) -> int | None:
    if word.isdecimal() and int(word) < len(container):
        return int(word)
    _add(document, where, f"{dotted(path)}.{word}", f"wanted an index from 0 to {len(container) - 1}" if container else "the list is empty")
    return None


def _forget(document: Document, path: Place) -> None:
    """Lines of what an override replaced say nothing any more."""
    for old in [place for place in document.places if place[: len(path)] == path]:
        del document.places[old]


def _add(document: Document, where: str, path: str, message: str) -> None:
    document.problems.append(Problem(where, path, message))
