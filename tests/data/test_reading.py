"""Rows as records: a format of the user's own, ids that come twice, and a position that resumes exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.checking import check_source
from data.code import load_function
from data.config import Source
from data.errors import DataError
from data.formats import Chat, Text
from data.reading import Stream
from data.records import read_records
from tests.data.chats import turns

CODE = """
def one(row):
    return {"question": row["q"], "answer": row["a"][0]}

def several(row):
    return [{"text": f"{row['q']} {answer}"} for answer in row["a"]]

def some(row):
    return {"text": row["q"]} if row["a"] else None

def wrong(row):
    return 3

def unknown(row):
    return {"foo": 1}
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    load_function.cache_clear()
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [{"q": "Q", "a": ["A", "B"]}, {"q": "R", "a": []}, {"q": "S", "a": ["C"]}]


def test_a_function_makes_of_a_row_one_or_several_or_none_in_a_known_format(tmp_path: Path, code: Path) -> None:
    path = write(tmp_path / "a.jsonl", *ROWS)

    def read(name: str, want: Any, **more: Any) -> list[Any]:
        return read_records([Source(path="a", format=f"{code}:{name}", **more)], [[path]], want).records

    assert read("several", Text) == [Text("Q A"), Text("Q B"), Text("S C")]
    assert read("some", Text) == [Text("Q"), Text("S")]
    assert read("one", Chat, on_bad_rows="skip") == [Chat(turns("Q", "A")), Chat(turns("S", "C"))]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", r"row 2: one raises IndexError: found list index out of range; wanted a row that the function can read \(1 of 3"),
        ("wrong", r"row 1: wrong gives no row: found int; wanted a dictionary.* \(3 of 3"),
        ("unknown", r"row 1: no known format: found columns foo"),
        ("missing", "the file has no function 'missing'"),
    ],
)
def test_a_function_that_fails_is_told_with_its_row(name: str, message: str, tmp_path: Path, code: Path) -> None:
    path = write(tmp_path / "a.jsonl", *ROWS)
    source = Source(path="a", format=f"{code}:{name}")
    with pytest.raises(DataError, match=message):
        read_records([source], [[path]], Chat)
    assert any(finding.problem for finding in check_source(source, [path], Chat)[0])


def test_a_file_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(DataError, match="the file cannot be run: ZeroDivisionError"):
        load_function(str(tmp_path / "bad.py"), "read")


def test_ids_that_come_twice_are_told_and_no_ids_are_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": f"t{n}", "id": n % 3} for n in range(5)), {"text": "x", "id": ""}, {"text": "y"})
    notes = read_records([Source(path="a")], [[path]], Text).warnings
    assert notes == ["a: 2 of 7 rows repeat the id of an earlier one (0 in row 4, 1 in row 5)"]
    assert any("repeat the id" in finding.text and finding.warning for finding in check_source(Source(path="a"), [path], Text)[0])


def test_half_a_character_is_a_fault_and_a_whole_pair_is_not(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", r'{"text": "whole \ud83d\ude00"}', r'{"text": "half \ud83d"}')
    with pytest.raises(DataError, match=r"row 2: half of a surrogate pair: found '\\ud83d'.*\(1 of 2"):
        read_records([Source(path="a")], [[lines]], Text)
    array = tmp_path / "a.json"
    array.write_text(r'[{"text": "whole \ud83d\ude00"}, {"text": "half \ude00"}]')
    found = read_records([Source(path="a", on_bad_rows="skip")], [[array]], Text)
    assert found.records == [Text("whole 😀")]


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_stream_that_is_restored_goes_on_with_the_very_next_record(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("stream")
    load_function.cache_clear()
    (tmp_path / "mine.py").write_text(CODE)
    files = [
        [write(tmp_path / "a.jsonl", *({"text": f"a{n}"} for n in range(9)), "{broken", {"text": "last"})],
        [write(tmp_path / "b.jsonl", *ROWS * 3)],
        [write(tmp_path / "c.jsonl", *({"text": f"c{n}"} for n in range(30)))],
    ]
    sources = [Source(path="a", on_bad_rows="skip"), Source(path="b", format=f"{tmp_path / 'mine.py'}:several"), Source(path="c", limit=8)]

    def stream() -> Stream[Text]:
        return Stream(sources, files, Text)

    whole = stream()
    expected = list(whole)
    assert len(expected) == 10 + 9 + 8
    found, state = [], None
    for stop in (first, second, 10**6):
        part = stream()
        if state is not None:
            part.restore(json.loads(json.dumps(state)))
        for taken, item in enumerate(iter(part) if stop else (), start=1):
            found.append(item)
            if taken == stop:
                break
        state = part.state()
    assert found == expected
    assert (part.notes, part.counts, part.warnings) == (whole.notes, whole.counts, whole.warnings)
