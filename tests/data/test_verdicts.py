"""What records alone tell about themselves."""

import pytest

from data.formats import Chat, Preference, Prompt, Record, Text
from data.verdicts import Tally, breaks_off, tallied

SENTENCE = "This is a long answer that goes on for a while and says the same thing again and again, as answers do. " * 3


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user" if index % 2 == 0 else "assistant", "content": content} for index, content in enumerate(contents)]


def pair(chosen: str, rejected: str, prompt: str = "Q") -> Preference:
    return Preference(turns(prompt), [{"role": "assistant", "content": chosen}], [{"role": "assistant", "content": rejected}])


def found(*records: Record) -> dict[str, str]:
    return {verdict.name: verdict.level for verdict in tallied(records).verdicts()}


def test_good_records_get_no_verdict():
    good: list[Record] = [Text("Words."), Chat(turns("Q", "A")), Prompt(turns("Q")), pair("good", "poor")]
    assert found(*good) == {}
    assert found() == {}
    assert Tally().verdicts() == []


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Text(" \n"), "empty-records"),
        (Prompt(turns(" ")), "empty-records"),
        (Chat(turns("Q", " ")), "empty-answers"),
        (Chat(turns("", "A")), "empty-turns"),
        (Chat(turns("Q", "A", "and then?")), "unanswered"),
        (pair("", "rejected"), "empty-chosen"),
        (pair("A", "B", prompt=" "), "empty-turns"),
    ],
)
def test_what_is_empty_or_unanswered_is_a_warning(record: Record, name: str):
    assert found(record)[name] == "warning"


def test_an_answer_that_calls_a_tool_is_not_empty():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert found(Chat([*turns("Q"), call])) == {}


def test_some_identical_pairs_are_a_warning_and_nothing_else_is_an_error():
    assert found(pair("A", "A"), pair("A", "B"))["identical-pairs"] == "warning"
    assert found(pair("A", "A"))["identical-pairs"] == "error"


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_side_that_is_mostly_the_longer_one_can_be_told_by_its_length(side: str):
    biased = pair("a long answer", "short") if side == "chosen" else pair("short", "a long answer")
    verdicts = tallied([biased] * 6 + [pair("same", "size")] * 4).verdicts()
    assert [verdict.text for verdict in verdicts] == [f"the {side} answer is the longer one in 60% of pairs: length alone predicts it"]
    assert found(*[biased] * 5, *[pair("same", "size")] * 5) == {}


def test_long_answers_that_break_off_are_told_once_they_are_no_accident():
    whole, cut = Chat(turns("Q", SENTENCE)), Chat(turns("Q", SENTENCE + "and there it"))
    assert found(*[whole] * 20, cut, cut) == {}
    assert found(*[whole] * 20, *[cut] * 3) == {"truncated-answers": "warning"}
    assert found(*[Chat(turns("Q", "four"))] * 10) == {}, "short answers need no full stop"


@pytest.mark.parametrize(
    ("ending", "broken"),
    [
        ("It ends here.", False),
        ("and, as one says,", True),
        ("a sentence of more than forty characters that does not", True),
        ("- a list entry of more than forty characters that has no stop", False),
        ("3. a numbered entry of more than forty characters without stop", False),
        ("```", False),
        ("what is said about this can be read at https://example.org/page", False),
        ("这是一个很长的句子没有句号" * 4, False),
        ("a short last line", False),
    ],
)
def test_lists_code_and_other_scripts_do_not_break_off(ending: str, broken: bool):
    assert breaks_off(f"{SENTENCE}\n{ending}") is broken
