"""Files of every kind give the same rows, and a broken one says where it is broken."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from data.errors import DataError
from data.files import DOCUMENT_CHARACTERS, Fault, Row, kind, read_file

ROWS = [{"question": f"Q{n}, “é”", "answer": "A\nB"} for n in range(1, 4)]


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_arrow(path: Path, stream: bool) -> None:
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def write_zstd(path: Path) -> None:
    import pyarrow

    with pyarrow.CompressedOutputStream(str(path), "zstd") as sink:
        sink.write(lines(ROWS))


KINDS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(lines(ROWS)),
    "a.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS) + b"\n\n"),
    "lines.json": lambda path: path.write_bytes(lines(ROWS)),
    "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8"),
    "object.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS))),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "a.jsonl.zst": write_zstd,
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.parquet": write_parquet,
    "a.arrow": lambda path: write_arrow(path, stream=False),
    "stream.arrow": lambda path: write_arrow(path, stream=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    KINDS[name](path)
    items = list(read_file(path))
    assert [item.value for item in items if isinstance(item, Row)] == ROWS
    assert len(items) == 3


def test_one_object_that_is_a_chat_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"messages": [{"role": "user", "content": "Q"}]}
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    assert list(read_file(path)) == [Row(str(path), 1, value)]


def test_numbers_are_lines_in_json_lines_and_elements_in_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('[{"a": 1},\n\n{"a": 2}]', encoding="utf-8")
    assert [row.number for row in read_file(tmp_path / "a.jsonl")] == [1, 3]
    assert [row.number for row in read_file(tmp_path / "a.json")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "number", "words"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n{"a": 3}\n', 2, ["not valid JSON", '{"a": 2', "one JSON object a line"]),
        ("a.jsonl", b'{"a": 1}\n[1]\n', 2, ["not an object", "list '[1]'"]),
        ("a.jsonl", b'[{"a": 1}, {"a": 2}]\n{"a": 3}\n', 1, ["not an object", "a file that is one list of rows is named .json"]),
        ("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n', 2, ["not UTF-8", "byte 0xe9 at column 11", "Latin-1"]),
        ("a.json", b'[{"a": 1}, 5]', 2, ["not an object", "int '5'"]),
        ("a.csv", b"a,b\n1,2\n3\n4,5,6\n", 3, ["wrong number of fields: found 1", "2 fields, as in the header"]),
        ("a.csv", b"a,b\n1,2\n4,5,6\n", 3, ["wrong number of fields: found 3"]),
        ("a.csv", b"a,b\n1,2\n3,\xe9\n", 3, ["not UTF-8"]),
        ("a.txt", b"good\nb\xe4d\n", 2, ["not UTF-8"]),
        ("a.jsonl", b'{"a": 1}\n' + b"[" * 200_000 + b"\n", 2, ["nested too deeply"]),
        ("a.jsonl", b'{"a": 1}\n{"b": 1\n', 2, ["Expecting ',' delimiter at column 8"]),
    ],
)
def test_a_bad_row_is_a_fault_with_its_number_and_the_rest_is_read(
    name: str, content: bytes, number: int, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    items = list(read_file(path))
    faults = [item for item in items if isinstance(item, Fault)]
    assert faults[0].number == number
    assert str(faults[0]).startswith(f"{path}, row {number}: ")
    assert all(word in str(faults[0]) for word in words)
    assert any(isinstance(item, Row) for item in items)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.csv", b'a,b\n1,2\n"3,4\n5,6\n', "row 3: not valid CSV: found unexpected end of data"),
        ("a.csv", b'a,b\n1,2\n"3"x,4\n5,6\n', "row 3: not valid CSV"),
        ("a.csv", b"a,b\r1,2\r3,4\r", "row 1: not valid CSV: found new-line character"),
        ("a.csv", b"a,b,a\n1,2,3\n", "row 1: the header names column 'a' twice"),
        ("a.json", b" \n", "the file is empty"),
        ("a.json", b"[]", "the file is empty"),
        ("a.csv", b"a,b\n", "the file is empty"),
        ("a.txt", b"\n \n", "the file is empty"),
        ("a.jsonl.gz", b"no gzip", "damaged or cut short after row 0"),
        ("a.jsonl.zst", b"no zstd", "cannot be read after row 0"),
        ("a.json", b'[{"a": 1}, {"a": 2}', "cut short after row 2"),
        ("a.json", b'[{"a": 1}, {"a": }]', "row 2: not valid JSON: found '{\"a\": }]'"),
        ("a.json", b'[{"a": "caf\xe9"}]', "not UTF-8"),
        ("a.json", "[]".encode("utf-16"), "found UTF-16 where text is expected; save it as UTF-8"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "found UTF-16 where text is expected; save it as UTF-8"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "found a PNG image where text is expected"),
        ("a.jsonl", gzip.compress(b'{"a": 1}\n', mtime=0), "found gzip where text is expected; give its name that ending, .gz"),
        ("a.json.gz", gzip.compress(b"PAR1", mtime=0), "found Parquet where text is expected"),
        ("a.json", b'[{"a": 1}, {"b": "cut', "cut short after row 1"),
        ("a.json", b"[" * 200_000 + b"]", "row 1: nested too deeply"),
        ("a.parquet", b"PAR1", "not a whole Parquet file"),
        ("a.arrow", b"ARROW1", "not a whole Arrow file"),
        ("a.docx", b"x", "cannot tell how to read a '.docx' file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_file(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_gzip_cut_short_gives_the_rows_before_the_cut_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    # Random digits, so that the compressed stream is long enough to be cut between rows.
    rows = [{"text": str(Random(n).getrandbits(400))} for n in range(2_000)]
    whole = gzip.compress(lines(rows))
    path.write_bytes(whole[: len(whole) // 2])
    read: list[Row | Fault] = []
    with pytest.raises(DataError, match=r"cut short after row \d+"):
        read.extend(read_file(path))
    assert 500 < len(read) < 2_000


def test_plain_text_becomes_documents_that_lose_no_word(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "".join(f"Speaker {n}:\nSome words, number {n}.\n\n" for n in range(500))
    path.write_text(text, encoding="utf-8")
    rows = [row for row in read_file(path) if isinstance(row, Row)]
    assert " ".join(str(row.value) for row in rows).split() == text.split()
    assert len(rows) == len(text) // DOCUMENT_CHARACTERS + 1
    assert all(str(row.value).startswith("Speaker") for row in rows)
    assert [text.splitlines()[row.number - 1] for row in rows] == [str(row.value).splitlines()[0] for row in rows]


def test_a_heading_opens_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" = One = \n \n Words . \n \n = = Part = = \n \n More . \n \n = Two = \n \n Words . \n", encoding="utf-8")
    assert [str(row.value).split()[:3] for row in read_file(path) if isinstance(row, Row)] == [["=", "One", "="], ["=", "Two", "="]]


def test_text_without_blank_lines_is_cut_between_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a line of words\n" * 3_000, encoding="utf-8")
    rows = [row for row in read_file(path) if isinstance(row, Row)]
    assert len(rows) == 3
    assert all(str(row.value).endswith("a line of words") for row in rows)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.jsonl.gz", ".jsonl"), ("A.JSON", ".json"), ("a.tar.gz", None), ("a", None), ("v1.2.txt", ".txt")]
)
def test_the_kind_is_the_suffix_before_compression(name: str, suffix: str | None) -> None:
    assert kind(Path(name)) == suffix


def test_a_string_may_hold_separators_of_lines_also_behind_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": }\r\n{"a": "x\u2028y\u0085z"}\n{"a": "last"}', encoding="utf-8", newline="")
    fault, *rows = read_file(path)
    assert isinstance(fault, Fault)
    assert rows == [Row(str(path), 2, {"a": "x\u2028y\u0085z"}), Row(str(path), 3, {"a": "last"})]


def test_an_object_that_holds_the_rows_is_searched_once_and_not_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    class Pattern:
        def search(self, text: str) -> None:
            searched.append(text)

    monkeypatch.setattr("data.files._HALF", Pattern())
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [{"a": "x"}] * 50}))
    assert len(list(read_file(path))) == 50
    assert len(searched) == 1
