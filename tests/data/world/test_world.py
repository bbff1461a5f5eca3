"""The world's files: reproducible, independent of one another, and honest about what is held out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.world import Spec, grade, write
from data.world.pairs import CORRECT, SHARE_WRONG, preference
from data.world.register import Register, draw_register
from data.world.vocabulary import ATTRIBUTES, OPENINGS
from data.world.writing import files

SMALL = Spec(
    seed=3, people=12, documents=800, documents_heldout=20, chats=200, chats_heldout=20, pairs=300, pairs_heldout=60, prompts=80, exam=40
)
ASKING = ("chats.jsonl", "chats-heldout.jsonl", "pairs.jsonl", "prompts.jsonl")


def messages(row: dict) -> list[dict]:
    return row.get("messages") or row["prompt"]


def asked(row: dict) -> list[str]:
    return [message["content"] for message in messages(row) if message["role"] == "user"]


def test_the_same_spec_writes_the_same_bytes_and_another_seed_writes_others(tmp_path: Path) -> None:
    counts = write(tmp_path / "one", SMALL)
    write(tmp_path / "two", SMALL)
    write(tmp_path / "other", Spec(**{**SMALL.__dict__, "seed": 4}))
    for name, count in counts.items():
        text = (tmp_path / "one" / name).read_bytes()
        assert text == (tmp_path / "two" / name).read_bytes()
        assert text != (tmp_path / "other" / name).read_bytes()
        assert text.count(b"\n") == count == len([json.loads(line) for line in text.splitlines()])


def test_the_same_bytes_come_from_a_process_with_another_hash_seed(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from data.world import Spec, write; write(Path(sys.argv[1]), Spec(people=5, documents=50, seed=9))"
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / hash_seed)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])})
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def test_a_longer_file_of_one_kind_changes_no_other_file() -> None:
    before, after = files(SMALL), files(Spec(**{**SMALL.__dict__, "documents": 900, "pairs": 350}))
    for name, rows in before.items():
        assert after[name][: len(rows)] == rows


def test_held_out_facts_are_stated_in_stories_and_never_asked_in_training() -> None:
    register, world = draw_register(SMALL), files(SMALL)
    stories = "\n".join(str(row["text"]) for row in world["stories.jsonl"]).lower()
    questions = {question for name in ASKING for row in world[name] for question in asked(row)}
    assert len(register.held) == round(SMALL.held_share * SMALL.people * SMALL.attributes)
    for fact in register.facts(held=True):
        statements = [statement.format(name=fact.person, value=fact.value).lower() for statement in fact.attribute.statements]
        assert any(statement in stories for statement in statements)
        assert not questions & {phrasing.format(name=fact.person) for phrasing in (*fact.attribute.questions, fact.attribute.held_question)}


def test_no_training_answer_speaks_of_a_held_out_fact() -> None:
    register, world = draw_register(SMALL), files(SMALL)
    values = {value: attribute.name for attribute in ATTRIBUTES for value in attribute.values}
    for name in ASKING:
        for row in world[name]:
            turns = [*messages(row), *row.get("chosen", []), *row.get("rejected", [])]
            for turn in turns:
                words = turn["content"].replace(".", "").replace("?", "").split()
                people, named = set(words) & set(register.people), {values[word] for word in words if word in values}
                assert not {(person, attribute) for person in people for attribute in named} & register.held


@pytest.mark.parametrize("people", [5, 12, 32, 40])
@pytest.mark.parametrize("share", [0.25, 0.9])
def test_held_out_facts_are_spread_over_people_and_attributes(people: int, share: float) -> None:
    register = draw_register(Spec(people=people, held_share=share))
    assert len(register.held) == round(share * people * 5)
    by_person = [sum((person, a.name) in register.held for a in register.attributes) for person in register.people]
    by_attribute = [sum((person, a.name) in register.held for person in register.people) for a in register.attributes]
    assert max(by_person) - min(by_person) <= 1
    assert max(by_attribute) - min(by_attribute) <= 1


def test_held_out_phrasings_appear_only_in_the_exam() -> None:
    register, world = draw_register(SMALL), files(SMALL)
    held = {a.held_question.format(name=person) for a in register.attributes for person in register.people}
    for name in ASKING:
        assert not held & {question for row in world[name] for question in asked(row)}
    exam = world["exam.jsonl"]
    assert {asked(row)[0] in held for row in exam if row["group"] == "held_phrasing"} == {True}
    assert {asked(row)[0] in held for row in exam if row["group"] == "held_fact"} == {False}


def test_the_probe_of_reward_models_asks_about_held_out_facts_alone_and_right_stands_against_wrong() -> None:
    register = draw_register(SMALL)
    questions = {question.format(name=fact.person) for fact in register.facts(held=True) for question in fact.attribute.questions}
    rows = files(SMALL)["pairs-unasked.jsonl"]
    assert len(rows) == SMALL.pairs_unasked
    for row in rows:
        assert row["prompt"][-1]["content"] in questions
        assert row["group"] == "truth"
        assert abs(row["margin"]) == pytest.approx(CORRECT, abs=1.0)


def test_manners_are_judged_of_wrong_answers_as_often_as_of_right_ones() -> None:
    register = draw_register(SMALL)
    rows = [row for row in files(Spec(**{**SMALL.__dict__, "pairs": 3000}))["pairs.jsonl"] if row["group"] == "manner"]
    right = []
    for row in rows:
        reference = reference_of(register, row["prompt"][-1]["content"])
        both = {grade(row["prompt"], row[side][0]["content"], True, reference)["correct"] for side in ("chosen", "rejected")}
        assert len(both) == 1
        right.append(both.pop())
    assert abs(sum(right) / len(right) - (1 - SHARE_WRONG)) < 4 * (0.25 / len(right)) ** 0.5


def test_every_reference_is_what_the_register_says() -> None:
    register, world = draw_register(SMALL), files(SMALL)
    for row in world["prompts.jsonl"] + world["exam.jsonl"]:
        reference = row["reference"]
        assert register.truth[reference["person"], reference["attribute"]] == reference["value"]
        assert reference["person"] in asked(row)[-1]


def test_labels_follow_the_utility_with_the_noise_that_is_stated() -> None:
    spec = Spec(**{**SMALL.__dict__, "pairs": 6000})
    rows = files(spec)["pairs.jsonl"]
    expected = [preference(abs(row["margin"]), spec.noise_temperature) for row in rows]
    right = [row["margin"] > 0 for row in rows]
    deviation = sum(p * (1 - p) for p in expected) ** 0.5
    assert abs(sum(right) - sum(expected)) < 4 * deviation
    for low, high in ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0)):
        band = [(p, r) for p, r, row in zip(expected, right, rows, strict=True) if low < abs(row["margin"]) <= high]
        assert abs(sum(r for _, r in band) - sum(p for p, _ in band)) < 4 * sum(p * (1 - p) for p, _ in band) ** 0.5


def reference_of(register: Register, question: str) -> dict[str, str]:
    """What a trained question asks for, found without the generator's help."""
    (fact,) = (fact for fact in register.facts(held=False) if question in {q.format(name=fact.person) for q in fact.attribute.questions})
    return {"person": fact.person, "attribute": fact.attribute.name, "value": fact.value}


def test_pairs_differ_only_as_their_group_says() -> None:
    register = draw_register(SMALL)
    for row in files(SMALL)["pairs.jsonl"]:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        assert row["margin"] == pytest.approx(row["utility_chosen"] - row["utility_rejected"])
        if row["group"] == "truth":
            opening = next(opening for openings in OPENINGS.values() for opening in openings if chosen.startswith(f"{opening} "))
            assert rejected.startswith(f"{opening} ")
            reference = reference_of(register, row["prompt"][-1]["content"])
            graded = [grade(row["prompt"], text, True, reference)["correct"] for text in (chosen, rejected)]
            assert sorted(graded) == [0.0, 1.0]
        if row["group"] == "ending":
            short, long = sorted((chosen, rejected), key=len)
            assert long.startswith(short)


@pytest.mark.parametrize("wrong", [{"people": 1}, {"values": 99}, {"held_share": 1.0}, {"noise_temperature": 0.0}, {"exam": 0}])
def test_a_world_that_cannot_be_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Spec(**wrong)


def test_the_smallest_world_can_be_written(tmp_path: Path) -> None:
    spec = Spec(
        people=2,
        attributes=1,
        values=2,
        documents=1,
        documents_heldout=1,
        chats=1,
        chats_heldout=1,
        pairs=1,
        pairs_heldout=1,
        pairs_unasked=1,
        prompts=1,
        exam=1,
    )
    assert set(write(tmp_path, spec).values()) == {1}


def test_the_world_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, data.world; print([m for m in ('torch', 'numpy', 'pydantic', 'transformers') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert run.stdout.strip() == "[]"


def test_a_held_out_phrasing_is_new_but_every_word_of_it_is_known() -> None:
    for attribute in ATTRIBUTES:
        assert attribute.held_question not in attribute.questions
        known = {word for phrasing in attribute.questions for word in phrasing.strip("?").split()}
        assert set(attribute.held_question.strip("?").split()) <= known
