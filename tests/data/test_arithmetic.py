"""The arithmetic problems: right where they say so, wrong as often as asked, and new sums are nowhere but in the exam."""

import json
import re
from itertools import product

import pytest

from data.arithmetic import Spec, sums, write
from stages.core.rules import load_rule

SPEC = Spec(seed=3, smallest=0, largest=9, carry=True, mistakes=0.3, new=0.15, documents=200, chats=2000, prompts=300, exam=100)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    assert write(folder, SPEC) == {"text.jsonl": 200, "chats.jsonl": 2000, "prompts.jsonl": 300, "exam.jsonl": 100}
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_equations_are_right_and_of_taught_sums(files):
    taught = {(each.a, each.operation, each.b) for each in sums(SPEC)[0]}
    for row in files["text"]:
        for line in row["text"].splitlines():
            a, operation, b, _, result = line.split()
            assert int(result) == (int(a) + int(b) if operation == "+" else int(a) - int(b))
            assert (int(a), operation, int(b)) in taught


def test_chats_err_in_the_share_that_is_asked_for_and_say_so_by_the_rule(files):
    rule = load_rule("number")
    wrong = 0
    for row in files["chats"]:
        question, answer = (message["content"] for message in row["messages"])
        working = answer.splitlines()[0].split()
        right = int(working[0]) + int(working[2]) if working[1] == "+" else int(working[0]) - int(working[2])
        assert sorted(numbers(question)) == sorted([int(working[0]), int(working[2])])
        assert row["wrong"] == (rule([], answer, True, right) == 0.0)
        wrong += row["wrong"]
    assert wrong / 2000 == pytest.approx(0.3, abs=0.03)


def test_new_sums_stand_in_the_exam_alone(files):
    taught, new = sums(SPEC)
    assert not set(taught) & set(new)
    assert len(new) / (len(taught) + len(new)) == pytest.approx(0.15, abs=0.06)
    pairs = {group: {tuple(numbers(row["prompt"])) for row in files["exam"] if row["group"] == group} for group in ("taught", "new")}
    both = {(each.a, each.b) for each in taught} & {(each.a, each.b) for each in new}  # a + b may be taught while a - b is new
    assert not (pairs["taught"] & pairs["new"]) - both
    asked = {tuple(numbers(row["prompt"])) for row in files["prompts"]}
    assert asked <= {(each.a, each.b) for each in taught}


def test_without_carrying_every_column_stands_alone_and_no_other_sum_is_left_out():
    spec = Spec(**{**vars(SPEC), "smallest": 8, "largest": 40, "carry": False})
    found = {(each.a, each.operation, each.b) for part in sums(spec) for each in part}
    for a, b in product(range(8, 41), repeat=2):
        columns = list(zip(f"{a:02}", f"{b:02}", strict=True))
        assert ((a, "+", b) in found) == all(int(x) + int(y) < 10 for x, y in columns)
        assert ((a, "-", b) in found) == all(x >= y for x, y in columns)


def test_the_data_are_a_function_of_the_seed(tmp_path):
    contents = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, Spec(**{**vars(SPEC), "seed": seed}))
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert all(contents[0][name] != contents[2][name] for name in contents[0])
