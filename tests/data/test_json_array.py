"""Arrays in pieces of any size are those that `json` reads whole, and what is held does not grow with the file."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import json_array
from data.errors import DataError
from data.files import read_file
from data.json_array import JsonText

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)


def elements(raw: bytes, chunk: int) -> list[Any]:
    text = JsonText(io.BytesIO(raw), "a.json", chunk)
    assert text.first() == "["
    return [value for value, _ in text.elements()]


@given(st.lists(values, max_size=5), st.integers(1, 12), st.sampled_from([None, 1]), st.booleans())
def test_an_array_in_pieces_is_the_whole_array(rows: list[Any], chunk: int, indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert elements(b"\xef\xbb\xbf \n" + raw, chunk) == json.loads(raw)


@given(st.lists(st.dictionaries(st.text(max_size=4), scalars, max_size=3), min_size=1, max_size=4), st.integers(1, 9), st.data())
def test_an_array_that_is_cut_anywhere_gives_the_rows_before_and_then_an_error(rows: list[Any], chunk: int, data: st.DataObject) -> None:
    raw = json.dumps(rows, ensure_ascii=False).encode()
    cut = raw[: data.draw(st.integers(1, len(raw) - 1))]
    read: list[Any] = []
    with pytest.raises((DataError, ValueError)):  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
        read.extend(value for value, _ in JsonText(io.BytesIO(cut), "a.json", chunk).elements())
    assert read == rows[: len(read)]


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
@pytest.mark.parametrize("broken", ['{"a": }', "{'a': 1}", '{"a": 1', '{"a": tru}', '{"a": "line\nbreak"}', '{"a": "\\u12"}'])
def test_a_broken_element_is_an_error_that_shows_it(broken: str, chunk: int) -> None:
    text = JsonText(io.BytesIO(f'[{{"a": 1}}, {broken}, {{"b": 3}}'.encode() + b', {"c": 4}' * 40 + b"]"), "a.json", chunk)
    assert text.first() == "["
    rows = text.elements()
    assert next(rows)[0] == {"a": 1}
    with pytest.raises(json.JSONDecodeError) as caught:
        next(rows)
    assert caught.value.doc.startswith(broken[: chunk + 6])


@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize("behind", ['[{"a": 2}]', "\n\n{}", "]", ","])
def test_what_stands_behind_the_array_is_not_passed_over(behind: str, chunk: int) -> None:
    text = JsonText(io.BytesIO(f'[{{"a": 1}}] {behind}'.encode()), "a.json", chunk)
    assert text.first() == "["
    rows = text.elements()
    assert next(rows)[0] == {"a": 1}
    with pytest.raises(DataError, match="ends after row 1, and is followed by"):
        next(rows)


def test_what_is_held_does_not_grow_with_the_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps({"text": f"{number} " * 2_000}) for number in range(2_000)) + "]")
    assert path.stat().st_size > 15e6
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_file(path)) == 2_000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8e6


def test_one_value_that_is_too_large_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "LARGEST", 2**21)
    for content, why in (
        ('{"version": 1, "notes": "n",\n"data": [' + '{"text": "x"},' * 400_000 + '{"text": "y"}]}', "it is no array"),
        ('[{"text": "a"}, {"text": "' + "b" * 5_000_000 + '"}]', "row 2 begins there and does not end"),
    ):
        path = tmp_path / "a.json"
        path.write_text(content)
        with pytest.raises(DataError, match=rf"a\.json: \d+ MiB of one JSON value were read \({why}\).*wanted JSON Lines"):
            list(read_file(path))


def test_json_lines_under_a_json_name_are_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "LARGEST", 2**10)
    path = tmp_path / "a.json"
    path.write_text("\n" + '{"text": "some words"}\n' * 40_000)
    assert sum(1 for _ in read_file(path)) == 40_000
