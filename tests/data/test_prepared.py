"""From sources to documents on disk: the same as in memory, and remade whenever anything changes that decides them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.chat import render_all
from data.config import Source
from data.errors import DataError
from data.formats import Chat, Text
from data.prepared import chat_tokens, picked, records_at, text_tokens
from data.records import content_key, place_of, read_records
from data.tokens import encode_texts
from tests.data.chats import CHATS, TOOLS, tokenizer, turns


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(count: int, word: str = "document") -> list[dict[str, Any]]:
    return [{"text": f"{word} {number} é", "nats": 0.5 * number} for number in range(count)]


def test_texts_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", texts(1500)), write(tmp_path / "b.jsonl", texts(3, "other"))
    sources, files = [Source(path="a"), Source(path="b", weight=2)], [[first], [second]]
    tokens, notes = text_tokens(tokenizer("turns"), sources, files, tmp_path / "cache", places=True)
    records = read_records([source.model_copy(update={"weight": 1.0}) for source in sources], files, Text)
    ids = [ids.tolist() for ids in encode_texts(tokenizer("turns"), [record.text for record in records.records])]
    assert [found.tolist() for found in tokens] == ids
    assert tokens.documents["nats"].tolist() == [record.nats for record in records.records]
    assert tokens.documents["place"].tolist() == [place_of(content_key(record)) for record in records.records]
    assert tokens.documents["size"].tolist() == [len(record.text.encode()) for record in records.records]
    assert notes == records.notes
    weighted = read_records(sources, files, Text).records
    assert [records.records[index] for index in picked(tokens, sources, 1.0)] == weighted
    assert records_at(sources, files, Text, [1502, 0, 0]) == [records.records[index] for index in (1502, 0, 0)]


@pytest.mark.parametrize("name", ["turns", "qwen"])
def test_chats_on_disk_are_those_in_memory(name: str, tmp_path: Path) -> None:
    chats = [{"messages": chat, "tools": TOOLS if "tool" in {m["role"] for m in chat} else None} for chat in CHATS.values()] * 150
    path = write(tmp_path / "a.jsonl", chats)
    tokens, _ = chat_tokens(tokenizer(name), [Source(path="a")], [[path]], tmp_path / "cache", learn="all", max_tokens=60)
    records = read_records([Source(path="a")], [[path]], Chat).records
    wanted = render_all(tokenizer(name), records, max_tokens=60)
    fit = tokens.documents["fit"]
    assert [index for index in range(len(tokens)) if fit[index] != 2] == wanted.kept
    assert {index for index in range(len(tokens)) if fit[index] == 1} == wanted.shorter
    for index, rendered in zip(wanted.kept, wanted.tokens, strict=True):
        begin = int(tokens.starts[index])
        assert tokens[index].tolist() == rendered.ids
        assert tokens.learn is not None
        assert tokens.learn[begin : begin + len(rendered.ids)].tolist() == rendered.learn


def test_nothing_is_made_twice_and_all_that_decides_tokens_makes_them_anew(tmp_path: Path) -> None:
    chats = [{"messages": turns(f"Q{n}", "A", "more", "yes")} for n in range(4)]
    path, cache = write(tmp_path / "a.jsonl", chats), tmp_path / "cache"

    def folders(fast: Any = None, source: Source | None = None, file: Path = path, **options: Any) -> int:
        chat_tokens(
            fast or tokenizer("turns"), [source or Source(path="a")], [[file]], cache, **{"learn": "all", "max_tokens": 64, **options}
        )
        return sum(entry.is_dir() for entry in cache.iterdir())

    assert folders() == folders() == 1
    assert folders(file=write(tmp_path / "moved.jsonl", chats)) == 1, "names bear no identity"
    assert folders(source=Source(path="a", weight=3)) == 1, "weights are a matter of indices"
    assert folders(learn="last") == 2
    assert folders(max_tokens=63) == 3
    assert folders(source=Source(path="a", limit=2)) == 4
    assert folders(fast=tokenizer("chatml-ours")) == 5
    other = tokenizer.__wrapped__("turns")
    other.chat_template = other.chat_template + " "
    assert folders(fast=other) == 6
    grown = tokenizer.__wrapped__("turns")
    grown.add_tokens(["zyx"])
    assert folders(fast=grown) == 7
    write(path, [*chats, chats[0]])
    assert folders() == 8


def test_a_format_of_the_users_own_is_part_of_the_key(tmp_path: Path) -> None:
    path, code = write(tmp_path / "a.jsonl", [{"q": "x"}, {"q": "y"}]), tmp_path / "mine.py"
    code.write_text("def read(row):\n    return {'text': row['q']}\n")
    source = Source(path="a", format=f"{code}:read")
    first, notes = text_tokens(tokenizer("turns"), [source], [[path]], tmp_path / "cache", places=False)
    assert notes == [f"a: 2 records; read by {code}:read"]
    code.write_text("def read(row):\n    return {'text': row['q'] * 2}\n")
    from data.code import load_function

    load_function.cache_clear()
    second, _ = text_tokens(tokenizer("turns"), [source], [[path]], tmp_path / "cache", places=False)
    assert first[0].tolist() != second[0].tolist()


def test_bad_rows_leave_no_tokens_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*texts(3), {"foo": 1}])
    with pytest.raises(DataError, match="row 4: no column 'text'"):
        text_tokens(tokenizer("turns"), [Source(path="a")], [[path]], tmp_path / "cache", places=False)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir() and entry.suffix != ".partial"]


def test_weights_and_temperature_choose_documents_and_a_weight_that_takes_none_is_told(tmp_path: Path) -> None:
    files = [[write(tmp_path / "a.jsonl", texts(90))], [write(tmp_path / "b.jsonl", texts(10, "other"))]]
    sources = [Source(path="a"), Source(path="b")]
    tokens, _ = text_tokens(tokenizer("turns"), sources, files, tmp_path / "cache", places=False)

    def share(temperature: float) -> float:
        chosen = picked(tokens, sources, temperature)
        assert len(chosen) == 100
        return float(np.mean(tokens.documents["source"][chosen] == 1))

    assert share(1) == 0.1
    assert share(2) == pytest.approx(0.25, abs=0.01)  # sqrt(10) / (sqrt(10) + sqrt(90))
    assert share(1000) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(DataError, match=r"b: a weight of 0\.04 takes none of its 10 records; wanted at least 0\.05"):
        picked(tokens, [sources[0], Source(path="b", weight=0.04)], 1.0)
