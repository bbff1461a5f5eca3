"""Rewards and grades that a program can decide: no model stands between the answer and its score.

A rule gets the prompt's messages, the answer's text, whether the answer ended by itself, and the prompt's reference. It gives a number, or
several by name: the one called `reward` (else `good`) is the score, the others are shown beside it. The same rules reward PPO and grade exams.
"""

import difflib
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
_CODE = re.compile(r"(.+\.py):([A-Za-z_]\w*)\Z")


def load_rule(name: str) -> Rule:
    """The rule of that name, as a recipe writes it. Raises DataError for an unknown one, a bad pattern or a function that is not there."""
    if code := _CODE.match(name):
        return _from_file(Path(code[1]), code[2])
    head, colon, rest = name.partition(":")
    if head not in BUILT_IN:
        near = difflib.get_close_matches(head, BUILT_IN, n=1)
        raise DataError(
            f"no rule '{name}' (there are {', '.join(BUILT_IN)}, and file.py:function)" + (f"; did you mean '{near[0]}'?" if near else "")
        )
    try:
        if colon and head in ("exact", "json", "number"):
            raise ValueError("nothing is read after its name; leave it out")
        return BUILT_IN[head](rest)
    except (ValueError, re.error) as error:
        raise DataError(f"rule '{name}': {error}") from error


def check_rule(name: str) -> None:
    """Raises DataError for a rule that no stage could load, as far as its name tells: the file of a function is looked for elsewhere."""
    if name != "world" and not _CODE.match(name):  # loading the whole world costs every command 0.02 s
        load_rule(name)


def needs_reference(name: str) -> bool:
    """Whether a rule compares the answer with the prompt's reference; what a function of the user's does is not known."""
    return name.partition(":")[0] in ("exact", "number", "world") or (name.startswith("regex:") and "{reference}" in name)


def plain_name(rule: str) -> str:
    """What a rule is called in metrics: the function's name, or the built-in rule's without what follows its colon."""
    code = _CODE.match(rule)
    return code[2] if code else rule.partition(":")[0]


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
        except (ValueError, RecursionError):  # a policy may well try a thousand brackets
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
    most = _count(limit)
    return lambda prompt, completion, finished, reference: min(1.0, max(0.0, 2.0 - len(completion.split()) / most))


def _count(words: str) -> int:
    if not words.isdecimal() or not int(words):
        raise ValueError(f"found '{words}' after the colon, wanted a number of words above 0")
    return int(words)


LANGUAGES = (  # noqa: SIM905
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy ga gcf gcr gd "
    "gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk "
    "ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl "
    "tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu"
).split()
"""Codes that py3langid knows: ISO 639-1 where there is one, else 639-3."""


def _language(code: str) -> Rule:
    """1 if the answer is in that language, as py3langid finds (naive Bayes on byte n-grams; Lui & Baldwin 2012); a word or two is too little to tell by."""
    if code not in LANGUAGES:
        near = difflib.get_close_matches(code, LANGUAGES, n=1, cutoff=0.5)
        raise ValueError(f"found '{code}' after the colon, wanted a language's code, such as en" + (f" or {near[0]}" if near else ""))
    if importlib.util.find_spec("py3langid") is None:
        raise ValueError(
            "the package py3langid is not installed; it comes with the extra `language`: pip install 'recipe-pipeline[language]'"
        )

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        from py3langid import classify

        return float(bool(completion.strip()) and classify(completion)[0] == code)

    return rule


def _repetition(size: str) -> Rule:
    """Share of an answer's runs of that many words (3 if left out) that occur once in it: 1 without any repetition."""
    words_in_run = _count(size or "3")

    def rule(prompt: list[dict[str, Any]], completion: str, finished: bool, reference: Any) -> float:
        words = completion.split()
        runs = [tuple(words[i : i + words_in_run]) for i in range(len(words) - words_in_run + 1)]
        return len(set(runs)) / len(runs) if runs else 1.0

    return rule


def _world(part: str) -> Rule:
    """The embedded world's ground truth: all its virtues (the score is `good`, all of them at once), or one."""
    from data.world.truth import grade
    from data.world.vocabulary import VALUES

    if not part:
        return grade
    virtues = grade([], "", False, {"value": "", "person": "", "attribute": next(iter(VALUES))})
    if part not in virtues:
        raise ValueError(f"the world grades {', '.join(virtues)}")
    return lambda prompt, completion, finished, reference: grade(prompt, completion, finished, reference)[part]


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
    "language": _language,
    "repetition": _repetition,
    "world": _world,
}
