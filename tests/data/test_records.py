"""What a stage gets: records that were counted, weighted and split, or one sentence about what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.checking import CHECKED_ROWS, Finding, check_source
from data.config import Source
from data.errors import DataError
from data.formats import Chat, Preference, Prompt, Text
from data.records import content_key, plain, read_records, shared, split
from tests.data.chats import turns


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(count: int) -> list[dict[str, str]]:
    return [{"text": f"document {n}"} for n in range(count)]


def test_records_come_in_file_order_with_what_was_decided_and_why(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", *texts(3)), write(tmp_path / "b.jsonl", {"messages": turns("Q", "A")})
    result = read_records([Source(path="*.jsonl")], [[first, second]], Text)
    assert result.records == [Text("document 0"), Text("document 1"), Text("document 2"), Text("Q\n\nA")]
    assert result.counts == {"*.jsonl": 4}
    assert "*.jsonl: 4 records; read as messages (turns with 'role' and 'content')" in result.notes
    assert "*.jsonl: 4 records; read as text (a column of text)" in result.notes


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *texts(5), "broken")
    assert len(read_records([Source(path="a", limit=5)], [[path]], Text).records) == 5


@pytest.mark.parametrize(("weight", "count"), [(0.25, 5), (1, 20), (1.5, 30), (3, 60)])
def test_a_weight_is_how_often_a_row_comes_in_an_epoch(weight: float, count: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *texts(20))
    result = read_records([Source(path="a", weight=weight)], [[path]], Text)
    times = [result.records.count(Text(row["text"])) for row in texts(20)]
    assert sum(times) == count == result.counts["a"]
    assert max(times) - min(times) <= 1
    assert result.records == read_records([Source(path="a", weight=weight)], [[path]], Text).records


BAD = [
    {"messages": turns("Q", "A")},
    "{broken",
    {"messages": turns("Q", "A"), "x": 1},
    {"messages": "Q"},
    {"messages": "R"},
    {"instruction": "Q", "output": "A"},
]


def test_bad_rows_stop_with_the_first_of_each_kind_and_how_many_share_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *BAD)
    with pytest.raises(DataError) as caught:
        read_records([Source(path="a")], [[path]], Chat)
    message = str(caught.value)
    assert f"{path}, row 2: not valid JSON: found '{{broken'" in message
    assert "(1 of 6 rows share this fault)" in message
    assert f"{path}, row 4: no list of turns: found 'Q'" in message
    assert "(2 of 6 rows share this fault)" in message
    mixed = "mixed formats in one file: found columns instruction, output, which are those of alpaca; wanted messages, as in the file's first rows"
    assert f"{path}, row 6: {mixed}" in message
    assert "on_bad_rows: skip" in message


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_row_that_only_lacks_a_column_is_told_of_that_column_wherever_it_stands(tmp_path: Path, whole_first: bool) -> None:
    whole, lacking = {"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": "Q", "chosen": "A"}
    path = write(tmp_path / "a.jsonl", *([whole, lacking, whole] if whole_first else [lacking, whole, whole]))
    with pytest.raises(DataError) as caught:
        read_records([Source(path="a")], [[path]], Preference)
    told = "row 2: no column 'rejected': found columns prompt, chosen; wanted rejected or dispreferred"
    first = "row 1: makes no preference: found columns prompt, chosen, which make a prompt; wanted chosen and rejected"
    assert (told if whole_first else first) in str(caught.value)
    assert "(1 of 3 rows share this fault)" in str(caught.value)


def test_bad_rows_are_left_out_and_counted_if_asked_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *BAD)
    result = read_records([Source(path="a", on_bad_rows="skip")], [[path]], Chat)
    assert result.records == [Chat(turns("Q", "A"))] * 2
    assert sum("left out" in note for note in result.notes) == 3


def test_a_file_whose_rows_are_all_bad_is_an_error_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"foo": 1})
    with pytest.raises(DataError, match=r"no usable row; .*no known format: found columns foo"):
        read_records([Source(path="a", on_bad_rows="skip")], [[path]], Chat)


def test_columns_and_format_of_the_recipe_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "Q", "meta": {"gold": "A"}})
    columns = {"question": "q", "answer": "meta.gold"}
    for format in ("auto", "question-answer"):
        source = Source(path="a", format=format, columns=columns)
        assert read_records([source], [[path]], Chat).records == [Chat(turns("Q", "A"))]
    assert read_records([Source(path="a", columns=columns)], [[path]], Prompt).records == [Prompt(turns("Q"), "A")]


def test_pairs_that_teach_nothing_or_the_wrong_thing_are_told(tmp_path: Path) -> None:
    same = {"prompt": "Q", "chosen": "A", "rejected": "A"}
    longer, empty = {"prompt": "Q", "chosen": "long answer", "rejected": "A"}, {"prompt": "Q", "chosen": "", "rejected": "A"}
    path = write(tmp_path / "a.jsonl", same, empty, *[longer] * 8)
    notes = " ".join(read_records([Source(path="a")], [[path]], Preference).notes)
    assert "1 of 10 pairs have identical answers" in notes
    assert "1 of 10 chosen answers are empty" in notes
    assert "longer one in 80% of pairs" in notes


def test_empty_answers_in_chats_are_told_and_tool_calls_are_not_empty(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    path = write(tmp_path / "a.jsonl", {"messages": turns("Q", " ")}, {"messages": [*turns("Q"), call]}, {"messages": turns("Q", "A")})
    notes = read_records([Source(path="a")], [[path]], Chat).notes
    assert notes[1:] == ["a: 1 of 3 chats hold an empty answer, which teaches silence"]


# Splitting -----------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda numbers: len(set(numbers)) > 1), st.floats(0.01, 0.5))
def test_a_split_loses_nothing_and_rows_with_one_content_never_straddle(numbers: list[int], share: float) -> None:
    records = [Text(f"Document {n}!" if index % 2 else f"document  {n}") for index, n in enumerate(numbers)]
    train, held = split(records, share)
    assert train
    assert held
    assert sorted(map(id, train + held)) == sorted(map(id, records))
    assert not {content_key(record) for record in train} & {content_key(record) for record in held}


def test_a_record_stays_on_its_side_when_data_are_added() -> None:
    records = [Text(f"document {n}") for n in range(400)]
    held = split(records[:200], 0.1)[1]
    assert [record for record in split(records, 0.1)[1] if record in records[:200]] == held
    assert 10 < len(held) < 30


def test_pairs_and_prompts_are_split_by_their_prompt() -> None:
    pairs = [Preference(turns(f"Q{n % 10}"), turns("", f"A{n}")[1:], turns("", "B")[1:]) for n in range(40)]
    train, held = split(pairs, 0.2)
    assert not {content_key(pair) for pair in train} & {content_key(pair) for pair in held}
    assert content_key(pairs[0]) == content_key(Prompt(turns("q0")))


def test_a_key_of_ones_own_decides_instead() -> None:
    train, held = split(list(range(100)), 0.3, key=lambda number: str(number % 7))
    assert not {number % 7 for number in train} & {number % 7 for number in held}


def test_held_out_records_that_are_trained_on_are_counted() -> None:
    train = [Prompt(turns("What is it?")), Prompt(turns("Other"))]
    assert shared(train, [Prompt(turns("what is  it")), Prompt(turns("new"))]) == 1
    assert shared(*split([Text(f"document {n % 9}") for n in range(30)], 0.3)) == 0


def test_one_content_cannot_be_split() -> None:
    with pytest.raises(DataError, match="2 records with one and the same content"):
        split([Text("A"), Text("a ")], 0.5)


def test_normalised_text_forgets_case_spacing_and_punctuation_only() -> None:
    assert plain("Ｈello,\n  WORLD — it's") == plain("hello world it s")
    assert plain("hello world") != plain("hello worlds")


@given(st.text(alphabet=st.characters() | st.sampled_from("aB=<_ .\n\u0338\u0301½…ﬁİß  abc defg"), max_size=60))
def test_the_fast_way_gives_the_words_of_the_whole_normalised_text(text: str) -> None:
    import re
    import unicodedata

    for whole in (text, "much, " * 60 + text + "_ASCII " * 60):  # where other characters are few, only their surroundings are normalised
        assert plain(whole) == " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", whole).casefold()))


# Checking ------------------------------------------------------------------------------------------------------------------------------


def test_a_check_tells_all_problems_without_raising(tmp_path: Path) -> None:
    good, bad, empty = (
        write(tmp_path / "good.jsonl", {"messages": turns("Q", "A")}),
        write(tmp_path / "bad.jsonl", *BAD),
        write(tmp_path / "empty.jsonl"),
    )
    sources = [Source(path="good.jsonl"), Source(path="bad.jsonl"), Source(path="empty.jsonl"), Source(path="hub:o/n")]
    findings = [found for one in zip(sources, [[good], [bad], [empty], []], strict=True) for found in check_source(*one, Chat)[0]]
    assert [finding.problem for finding in findings] == [False, True, True, True, True, False]
    assert findings[0] == Finding(False, "good.jsonl: 1 records; read as messages (turns with 'role' and 'content')")
    assert "the file is empty" in findings[4].text
    assert "on the Hub" in findings[5].text


def test_a_check_of_skipped_rows_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *BAD)
    findings, _ = check_source(Source(path="a", on_bad_rows="skip"), [path], Chat)
    assert not any(finding.problem for finding in findings)
    assert sum("left out" in finding.text for finding in findings) == 3


def test_a_source_without_one_usable_row_is_a_problem_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"foo": 1})
    assert check_source(Source(path="a", on_bad_rows="skip"), [path], Chat)[0] == [Finding(True, "a: no usable row")]


def test_large_files_are_checked_at_their_beginning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", *texts(CHECKED_ROWS), "broken")
    assert check_source(Source(path="a"), [path], Text)[0][0].problem
    monkeypatch.setattr("data.checking.CHECKED_BYTES", 10)
    assert check_source(Source(path="a"), [path], Text)[0] == [Finding(False, "a: 1,000 records; read as text (a column of text)")]
