"""Built-in rules, on answers that anyone can grade by eye."""

import pytest

from data.errors import DataError
from stages.core.rules import LANGUAGES, last_number, load_rule, score_of


def grade(name, answer, reference=None, finished=True):
    return load_rule(name)([{"role": "user", "content": "?"}], answer, finished, reference)


@pytest.mark.parametrize(
    ("rule", "answer", "reference", "score"),
    [
        ("exact", " Paris \n", "Paris", 1),
        ("exact", "Paris.", "Paris", 0),
        ("regex:^(yes|no)$", "yes", None, 1),
        ("regex:^(yes|no)$", "yes!", None, 0),
        (r"regex:\b{reference}\b", "it is 1.5 m", "1.5", 1),
        (r"regex:\b{reference}\b", "it is 105 m", "1.5", 0),
        ("json", '{"a": [1, 2]}', None, 1),
        ("json", '```json\n{"a": 1}\n```', None, 1),
        ("json", '{"a": ', None, 0),
        ("json", "[" * 100_000, None, 0),
        ("number", "2 and 3 make 5", "#### 5", 1),
        ("number", "so #### 1,234", "1234", 1),
        ("number", "#### 5 of 7", "5", 1),
        ("number", "five", "5", 0),
        ("length:3", "one two three", None, 1),
        ("length:4", "a b c d e f", None, 0.5),
        ("length:3", "a b c d e f g h", None, 0),
        ("repetition", "a b c d", None, 1),
        ("repetition:1", "a a a a", None, 0.25),
        ("repetition", "", None, 1),
        ("language:de", "Das ist ein Satz, den jeder lesen kann.", None, 1),
        ("language:en", "Das ist ein Satz, den jeder lesen kann.", None, 0),
        ("language:zh", "这是一个所有人都能读懂的句子。", None, 1),
        ("language:en", " ", None, 0),
    ],
)
def test_built_in_rules(rule, answer, reference, score):
    assert grade(rule, answer, reference) == pytest.approx(score)


def test_the_last_number_is_the_one_after_the_mark_or_else_the_last():
    assert last_number("1, 2, -3.5") == -3.5
    assert last_number("1 #### 2 3") == 2
    assert last_number("none") is None


def test_the_world_is_graded_whole_or_by_part():
    from data.world.vocabulary import ATTRIBUTES, VALUES

    attribute = next(iter(VALUES)) if isinstance(VALUES, dict) else ATTRIBUTES[0].name
    reference = {"value": VALUES[attribute][0], "person": "Nobody", "attribute": attribute}
    whole = grade("world", "nonsense", reference, finished=False)
    assert score_of(whole) == whole["good"] == 0.0
    assert grade("world:correct", f"{VALUES[attribute][0]}", reference) == 1.0
    with pytest.raises(DataError, match="the world grades correct"):
        grade("world:beauty", "x", reference)


def test_a_function_of_a_file_is_a_rule(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def ends(prompt, completion, finished, reference):\n    return {'reward': float(finished), 'loud': 1.0}\n")
    found = grade(f"{file}:ends", "x", finished=False)
    assert score_of(found) == 0.0
    with pytest.raises(DataError, match="no function 'starts'"):
        load_rule(f"{file}:starts")
    with pytest.raises(DataError, match="there is no file"):
        load_rule("nowhere.py:ends")


@pytest.mark.parametrize(
    ("name", "says"), [("exakt", "there are exact"), ("regex:", "a pattern is missing"), ("regex:(", "regex"), ("length:no", "length")]
)
def test_an_unknown_or_broken_rule_is_named(name, says):
    with pytest.raises(DataError, match=says):
        load_rule(name)


def test_every_language_that_the_identifier_knows_can_be_asked_for_and_a_misspelt_one_is_told():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    known = {code for code in LanguageIdentifier.from_model_file(MODEL_FILE).nb_classes if code != "zxx"}  # zxx: no language at all
    assert known == set(LANGUAGES)
    with pytest.raises(DataError, match=r"found 'english' after the colon.*such as en"):
        load_rule("language:english")


def test_several_grades_without_a_score_are_refused():
    with pytest.raises(DataError, match="neither `reward` nor `good`"):
        score_of({"nice": 1.0})
