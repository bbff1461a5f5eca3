"""Rewards and grades that a program can decide: no model stands between the answer and its score.

A rule gets the prompt's messages, the answer's text, whether the answer ended by itself, and the prompt's reference. It gives a number, or
several by name: the one called `reward` (else `good`) is the score, the others are shown beside it. The same rules reward PPO and grade exams.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError

Grade = float | Mapping[str, float]
Rule = Callable[[list[dict[str, Any]], str, bool, Any], Grade]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load_rule(name: str) -> Rule:
    """The rule of that name, as a recipe writes it. Raises DataError for an unknown one, a bad pattern or a function that is not there."""
    head, _, rest = name.partition(":")
    if head.endswith(".py"):
        return _from_file(Path(head), rest)
    if head not in BUILT_IN:
        raise DataError(f"no rule '{name}' (there are {', '.join(BUILT_IN)}, and file.py:function)")
    try:
        return BUILT_IN[head](rest)
    except (ValueError, re.error) as error:
        raise DataError(f"rule '{name}': {error}") from error


def score_of(grade: Grade) -> float:
    """The one number that counts. Raises DataError if several are given and none is called `reward` or `good`."""
    if not isinstance(grade, Mapping):
        return float(grade)
    for name in ("reward", "good"):
        if name in grade:
            return float(grade[name])
    raise DataError(f"a rule gave {', '.join(grade)}, but neither `reward` nor `good`: no number counts as its score")


def _exact(_: str) -> Rule:
    """1 if the answer is the reference, white space at its ends aside."""
    return lambda prompt, completion, finished, reference: float(completion.strip() == str(reference).strip())


def _regex(pattern: str) -> Rule:
    """1 if the pattern is found in the answer; `{reference}` in it stands for the reference, taken literally."""
    if not pattern:
        raise ValueError("a pattern is missing after `regex:`")
    re.compile(pattern.replace("{reference}", ""))

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        return float(re.search(pattern.replace("{reference}", re.escape(str(reference))), completion) is not None)

    return rule


def _json(_: str) -> Rule:
    """1 if the answer, less a code fence around it, is one JSON value."""

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        try:
            json.loads(re.sub(r"^```(?:json)?|```$", "", completion.strip()))
        except ValueError:
            return 0.0
        return 1.0

    return rule


def last_number(text: str) -> float | None:
    """The number after the last `####`, as GSM8K writes it, or else the last number of the text."""
    _, marker, after = text.rpartition("####")
    found = _NUMBER.findall(after if marker else text)
    return float((found[0] if marker else found[-1]).replace(",", "")) if found else None


def _number(_: str) -> Rule:
    """1 if the answer's number (`last_number`) is the reference's."""

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        wanted, found = last_number(str(reference)), last_number(completion)
        return float(wanted is not None and found is not None and abs(wanted - found) <= 1e-6 * max(1.0, abs(wanted)))

    return rule


def _length(limit: str) -> Rule:
    """1 for an answer of at most that many words, falling in a line to 0 at twice as many."""
    most = int(limit)
    if most <= 0:
        raise ValueError("the number of words must be above 0")
    return lambda prompt, completion, finished, reference: min(1.0, max(0.0, 2.0 - len(completion.split()) / most))


def _repetition(size: str) -> Rule:
    """Share of an answer's runs of that many words (3 if left out) that occur once in it: 1 without any repetition."""
    words_in_run = int(size or 3)

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        words = completion.split()
        runs = [tuple(words[i : i + words_in_run]) for i in range(len(words) - words_in_run + 1)]
        return len(set(runs)) / len(runs) if runs else 1.0

    return rule


def _world(part: str) -> Rule:
    """The embedded world's ground truth: all its virtues (the score is `good`, all of them at once), or one."""
    from data.world.truth import grade

    if not part:
        return grade

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        virtues = grade(prompt, completion, finished, reference)
        if part not in virtues:
            raise DataError(f"rule 'world:{part}': the world grades {', '.join(virtues)}")
        return virtues[part]

    return rule


def _from_file(path: Path, name: str) -> Rule:
    """A function of a Python file of the user's."""
    if not path.is_file():
        raise DataError(f"rule '{path}:{name}': there is no file {path.absolute()}")
    spec = importlib.util.spec_from_file_location(f"rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"rule '{path}:{name}': {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rule = getattr(module, name, None)
    if not callable(rule):
        raise DataError(f"rule '{path}:{name}': {path} has no function '{name}'")
    return rule  # type: ignore[no-any-return]


BUILT_IN: dict[str, Callable[[str], Rule]] = {
    "exact": _exact,
    "regex": _regex,
    "json": _json,
    "number": _number,
    "length": _length,
    "repetition": _repetition,
    "world": _world,
}
