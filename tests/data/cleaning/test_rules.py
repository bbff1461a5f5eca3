"""Each rule removes what it names, and good prose passes all of them."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning.config import Rules
from data.cleaning.rules import RULES, broken
from data.cleaning.words import Words

WORDS = [
    "river",
    "mountain",
    "quiet",
    "evening",
    "garden",
    "letter",
    "window",
    "station",
    "harvest",
    "copper",
    "lantern",
    "market",
    "bridge",
    "winter",
    "signal",
    "orchard",
    "vessel",
]


def prose(sentences: int = 12, seed: int = 0) -> str:
    source = random.Random(seed)
    said = [" ".join(source.sample(WORDS, 9)).capitalize() + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(said[begin : begin + 3]) for begin in range(0, sentences, 3))


OFF = Rules(**dict.fromkeys(Rules.model_fields))

EXAMPLES: dict[str, tuple[Any, str]] = {
    "words_min": (50, "too short to teach anything"),
    "words_max": (20, prose()),
    "word_length_min": (3.0, "a b c d e f " * 20),
    "word_length_max": (10.0, "donaudampfschifffahrtsgesellschaft " * 60),
    "symbols": (0.1, "#tag and #more #tags " * 20),
    "bullet_lines": (0.9, "\n".join(f"- item number {n}" for n in range(20))),
    "ellipsis_lines": (0.3, "\n".join(f"read line {n} ..." for n in range(20))),
    "alphabetic_words": (0.8, "12 34 56 word 78 90 " * 20),
    "stop_words": (2, prose()),
    "duplicate_lines": (0.3, "\n".join(["the same line"] * 5 + ["another one", "a third"])),
    "duplicate_paragraphs": (0.3, "\n\n".join(["the same part"] * 5 + ["another one", "a third"])),
    "duplicate_line_characters": (0.2, "\n".join(["a very long line that comes twice " * 3] * 2 + list("abcdefgh"))),
    "duplicate_paragraph_characters": (0.2, "\n\n".join(["a very long part that comes twice " * 3] * 2 + list("abcdefgh"))),
    "top_2_gram": (0.2, "buy now " * 10 + "one two three four five six seven"),
    "top_3_gram": (0.18, "buy it now " * 10 + "one two three four five six seven"),
    "top_4_gram": (0.16, "buy it right now " * 10 + "one two three four five six seven"),
    **{f"duplicate_{n}_grams": (0.1, (" ".join(WORDS[:n]) + " ") * 2 + " ".join(WORDS[n : n + 3])) for n in range(5, 11)},
    "placeholder": (True, "Lorem ipsum dolor sit amet"),
    "braces": (True, "if (x) { return }"),
    "unfinished_lines": (0.88, "\n".join(f"menu item {n}" for n in range(20))),
    "short_lines": (0.67, "\n".join(f"menu {n}" for n in range(20))),
}


@pytest.mark.parametrize("name", Rules.model_fields)
def test_a_rule_removes_what_it_names_and_nothing_when_it_is_off(name: str) -> None:
    threshold, text = EXAMPLES[name]
    found = broken(Words(text), OFF.model_copy(update={name: threshold}))
    assert found is not None
    assert found[0] == name
    assert broken(Words(text), OFF) is None


def test_every_rule_has_its_measure_and_its_setting() -> None:
    assert [name for name, _, _ in RULES] == list(Rules.model_fields)


def test_prose_passes() -> None:
    assert broken(Words(prose()), Rules()) is None
    chinese = (
        "这是一个关于山水的故事，讲述了一位老人在河边种树的经历。他每天清晨起来浇水，春天的时候花都开了，孩子们常常来听他讲从前的事情。"
    )
    assert broken(Words(chinese), Rules()) is None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(2, 10))
def test_repeated_runs_are_those_that_a_slow_count_finds(words: list[str], size: int) -> None:
    """The share of characters in repeated runs, by sets of places and tuples."""
    text = " ".join(word * (1 + "abc".index(word)) for word in words)
    cut = text.split()
    runs = [tuple(cut[i : i + size]) for i in range(len(cut) - size + 1)]
    inside = {i + k for i, run in enumerate(runs) if runs.count(run) > 1 for k in range(size)}
    share = sum(len(cut[i]) for i in inside) / sum(map(len, cut))
    measures = {name: measure for name, measure, _ in RULES}
    if size >= 5:
        assert measures[f"duplicate_{size}_grams"](Words(text)) == pytest.approx(share)
    if size in (2, 3, 4):
        most = max((runs.count(run) for run in runs), default=0)
        tops = {sum(map(len, run)) * most for run in runs if runs.count(run) == most}
        top = measures[f"top_{size}_gram"](Words(text)) * sum(map(len, cut))
        assert top == 0 if most < 2 else any(top == pytest.approx(value) for value in tops)
