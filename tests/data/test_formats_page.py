"""`docs/data-formats.md` is true: each example is read as its heading says, and every format and column stands there."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from data.columns import ALIASES, NEEDS, detect
from data.config import Format
from data.files import COMPRESSIONS, DOCUMENT_CHARACTERS, SUFFIXES
from data.formats import Chat, Preference, Prompt, Record, Text, normalise

PAGE = (Path(__file__).resolve().parents[2] / "docs/data-formats.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `([\w-]+)`\n(.*?)(?=^## )", PAGE, flags=re.DOTALL | re.MULTILINE))
FORMATS = [name for name in get_args(Format) if name != "auto"]
STAGES = {"text": Text, "chats": Chat, "pairs": Preference, "prompts": Prompt}
"""What the table of stages says they take."""


def examples(name: str) -> list[dict[str, object]]:
    lines = [line for block in re.findall(r"```json\n(.*?)```", SECTIONS[name], flags=re.DOTALL) for line in block.splitlines()]
    return [json.loads(line) for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)`", cell)


def fits(row: dict[str, object], want: type[Record]) -> bool:
    try:
        return bool(normalise(row, "auto", {}, want))
    except ValueError:
        return False


def test_every_format_has_a_section_and_no_other():
    assert set(SECTIONS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_example_is_read_as_the_format_under_which_it_stands(name: str):
    assert examples(name)
    for row in examples(name):
        assert detect(row)[0] == name
        assert normalise(row, name, {}, None)


@pytest.mark.parametrize("name", FORMATS)
def test_each_section_names_the_columns_that_its_rows_need_and_those_alone_suffice(name: str):
    said = re.search(r"Needs (.*?)(?:[.:] |\.$)", SECTIONS[name], flags=re.MULTILINE)
    assert said is not None
    assert set(NEEDS[name]) == {column for column in names(said[1]) if column in NEEDS[name]}
    for row in examples(name):
        for column in NEEDS[name]:
            without = {key: value for key, value in row.items() if key not in ALIASES[column]}
            with pytest.raises(ValueError, match=f"no column '{column}'|no known format|turns|prompt"):
                normalise(without, name, {}, None)


def test_the_table_of_stages_says_from_which_formats_each_record_can_be_made():
    table = re.findall(r"^\| [^|]+ \| (\w+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    said = {takes: set(names(formats)) for takes, formats in table if takes in STAGES}
    chats = {"messages", "sharegpt", "alpaca", "question-answer", "prompt-completion"}
    said["text"] = set(FORMATS) if "every other one too" in PAGE else said["text"]
    said["prompts"] |= chats
    for takes, record in STAGES.items():
        assert said[takes] == {name for name in FORMATS if all(fits(row, record) for row in examples(name))}, takes


def test_the_table_of_columns_is_that_of_the_program():
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]+`) \|$", PAGE[PAGE.index("## Other names") :], flags=re.MULTILINE)
    assert {field: tuple(names(cell)) for field, cell in rows} == ALIASES


def test_every_kind_of_file_is_named():
    assert set(re.findall(r"`(\.\w+)`", PAGE[: PAGE.index("## Which")])) == set(SUFFIXES)
    assert all(f"{suffix}`" in PAGE for suffix in COMPRESSIONS)
    assert f"{DOCUMENT_CHARACTERS:,} characters" in PAGE
