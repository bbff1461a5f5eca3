"""The truth table of `grade`."""

import pytest

from data.world import Spec, grade
from data.world.chats import answer
from data.world.draws import generator
from data.world.register import draw_register
from data.world.vocabulary import ATTRIBUTES, NAMES, OPENINGS, POLITE_WORDS, RAMBLINGS, RUDE_WORDS, SHORT_WORDS

REFERENCE = {"person": "Clara", "attribute": "town", "value": "Lima"}
PROMPT = [{"role": "user", "content": "Where does Clara live?"}]
GOOD = "Gladly, Clara lives in Lima."


@pytest.mark.parametrize(
    ("completion", "correct"),
    [
        (GOOD, 1),
        (" Gladly, clara LIVES in lima!", 1),
        ("It is Lima.", 1),
        ("Clara lives in Rome.", 0),
        ("Clara lives in Lima or Rome.", 0),
        ("Boris lives in Lima.", 0),
        ("Clara and Boris live in Lima.", 0),
        ("Clara lives in Limassol.", 0),
        ("Clara keeps a cat.", 0),
        ("", 0),
        ("Rome Oslo Cairo Lima Paris Tokyo Delhi Quebec", 0),
    ],
)
def test_correct_means_the_right_value_and_no_other_value_or_person(completion: str, correct: int) -> None:
    assert grade(PROMPT, completion, True, REFERENCE)["correct"] == correct


@pytest.mark.parametrize(
    ("completion", "finished", "expected"),
    [
        (GOOD, True, {"correct": 1, "polite": 1, "short": 1, "finished": 1, "good": 1}),
        (GOOD, False, {"correct": 1, "polite": 1, "short": 1, "finished": 0, "good": 0}),
        (GOOD[:-1], True, {"correct": 1, "polite": 1, "short": 1, "finished": 0, "good": 0}),
        ("Well, Clara lives in Lima.", True, {"correct": 1, "polite": 0, "short": 1, "finished": 1, "good": 0}),
        ("Gladly, fool, Clara lives in Lima.", True, {"correct": 1, "polite": 0, "short": 1, "finished": 1, "good": 0}),
        ("Gladly, Clara lives in Oslo.", True, {"correct": 0, "polite": 1, "short": 1, "finished": 1, "good": 0}),
        (f"{GOOD} {RAMBLINGS[0]}", True, {"correct": 1, "polite": 1, "short": 0, "finished": 1, "good": 0}),
        ("", True, {"correct": 0, "polite": 0, "short": 0, "finished": 0, "good": 0}),
    ],
)
def test_good_is_the_conjunction_of_four_virtues(completion: str, finished: bool, expected: dict[str, float]) -> None:
    assert grade(PROMPT, completion, finished, REFERENCE) == expected


def test_generated_answers_get_the_grades_of_their_making() -> None:
    register, random = draw_register(Spec()), generator(0, "test")
    for fact in register.facts(held=False) * 3:
        said = answer(fact, random)
        reference = {"person": fact.person, "attribute": fact.attribute.name, "value": fact.value}
        graded = grade([], said.text, True, reference)
        assert graded["correct"] == graded["finished"] == 1.0
        assert graded["polite"] == (said.manner == "polite")
        assert graded["short"] == (not said.ramblings)


def test_length_is_decided_by_the_ramblings_alone() -> None:
    openings = [len(opening.split()) for kind in OPENINGS.values() for opening in kind]
    statements = [len(statement.split()) for attribute in ATTRIBUTES for statement in attribute.statements]
    assert max(openings) + max(statements) <= SHORT_WORDS < min(openings) + min(statements) + min(len(r.split()) for r in RAMBLINGS)


def test_no_word_that_decides_a_grade_has_a_second_use() -> None:
    deciding = [word.lower() for word in (*NAMES, *(value for a in ATTRIBUTES for value in a.values))] + sorted(POLITE_WORDS | RUDE_WORDS)
    assert len(deciding) == len(set(deciding))
    frames = " ".join([*RAMBLINGS, *(text for a in ATTRIBUTES for text in (*a.statements, *a.questions, a.held_question))])
    assert not set(deciding) & set(frames.lower().replace("?", " ").replace(".", " ").replace(",", " ").split())
