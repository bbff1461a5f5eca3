"""Strict YAML."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.errors import RecipeError
from pipeline.reading import MAX_BYTES, read_recipe, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2_000_000", 2_000_000),
        ("2e6", 2_000_000),
        ("1.5e1", 15),
        ("0x1F", 31),
        ("010", 10),
        ("-3", -3),
        ("1.5", 1.5),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'5'", "5"),
        (".inf", float("inf")),
        ("[1, [2]]", [1, [2]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_values_are_what_people_mean(text: str, value: object):
    found = read_yaml(text, "x").value
    assert found == value
    assert type(found) is type(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("abc de:#'\"\n-{}[]é", max_size=12),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_what_was_written_is_what_is_read(value: object):
    from io import StringIO

    stream, yaml = StringIO(), YAML(typ="safe", pure=True)
    # In flow style the writer leaves a text such as `:-` unquoted, which no reader takes back.
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    document = read_yaml(stream.getvalue(), "x")
    assert document.value == value
    assert document.problems == []


def test_every_value_knows_its_line():
    document = read_yaml("a: 1\nb:\n  - x\n  - y: 2\n    z: 3\n", "f.yaml")
    assert document.place(("a",)) == "f.yaml:1"
    assert document.place(("b",)) == "f.yaml:2"
    assert document.place(("b", 1, "z")) == "f.yaml:5"
    assert document.place(("b", 1, "missing")) == "f.yaml:4"


def test_equal_keys_are_an_error_that_names_both_lines():
    document = read_yaml("a:\n  b: 1\n  c: 2\n  b: 3\n", "f")
    assert [str(problem) for problem in document.problems] == ["f:4: a.b: written twice in one mapping (first on line 2); keep one"]


def test_anchors_and_merge_keys_work_and_own_keys_win():
    document = read_yaml("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: {<<: [*one, {c: 4, a: 5}]}\nfour: *one\n", "f")
    assert document.value["two"] == {"a": 1, "b": 3}
    assert document.value["three"] == {"a": 1, "b": 2, "c": 4}
    assert document.value["four"] == {"a": 1, "b": 2}
    assert document.problems == []
    assert "wanted a mapping" in str(read_yaml("a: {<<: 3}", "f").problems[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "not valid YAML"),
        ("a: *b", "undefined alias 'b'; a text that begins with . or ., such as .*, wants quotes"),
        ("a: 1\n---\nb: 2", "single document"),
        ("%YAML 1.1\n---\na: yes", "f:1: directives are not used"),
        ("a: 'x\x00'", "not valid YAML"),
        ("a: &a [*a]", "an alias refers to the value that it is part of"),
        ("[" * 30_000, "nested too deeply"),
        ("- " * 60 + "x", "nested too deeply"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            "unfolds",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_with_little_work(text: str, sentence: str):
    before = time.process_time()
    with pytest.raises(RecipeError, match=sentence.replace("(", r"\(")):
        read_yaml(text, "f")
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: !x 3", "tag !x"), ("a: !!python/object/apply:os.system [x]", "python"), ("? [a]\n: 1", "a key must be a text")],
)
def test_tags_and_odd_keys_are_problems(text: str, sentence: str):
    document = read_yaml(text, "f")
    assert sentence in str(document.problems) or document.value == {"a": ["x"]}


def test_a_number_too_long_to_be_one_is_a_problem_not_a_crash():
    assert "found 9999" in str(read_yaml("a: " + "9" * 5_000, "f").problems[0])


def test_files_that_cannot_be_recipes_are_refused(tmp_path):  # type: ignore[no-untyped-def]
    big, latin = tmp_path / "big.yaml", tmp_path / "latin.yaml"
    big.write_bytes(b"a: 1\n" * MAX_BYTES)
    latin.write_bytes(b"name: caf\xe9\n")
    for file, sentence in (
        (big, "larger than"),
        (latin, "not UTF-8"),
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            read_recipe(file, str(file))


def test_an_empty_file_is_nothing():
    assert read_yaml("# only a comment\n", "f").value is None
