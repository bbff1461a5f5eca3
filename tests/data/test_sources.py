"""From a recipe's words to files, and what identifies them."""

import subprocess
import sys
from pathlib import Path

import pytest

from data.config import Source
from data.errors import DataError
from data.hub import parse
from data.sources import digest, read_rows, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("chats.jsonl", "more/pairs.json", "more/deep/text.txt", "more/readme.pdf", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("chats.jsonl", ["chats.jsonl"]),
        ("more", ["more/deep/text.txt", "more/pairs.json"]),
        ("more/", ["more/deep/text.txt", "more/pairs.json"]),
        ("*.jsonl", ["chats.jsonl"]),
        ("**/*.[jt]*", ["chats.jsonl", "more/deep/text.txt", "more/pairs.json"]),
    ],
)
def test_a_file_a_folder_or_a_glob_names_its_data_files_in_order(path: str, names: list[str], folder: Path) -> None:
    assert resolve(Source(path=path), folder) == [folder / name for name in names]


def test_an_address_is_no_source(folder: Path) -> None:
    with pytest.raises(DataError, match=r"found the address 'https://x\.y/z\.jsonl', wanted a file, .*; download it"):
        resolve(Source(path="https://x.y/z.jsonl"), folder)


def test_absolute_paths_and_globs_do_not_need_the_recipes_folder(folder: Path) -> None:
    assert resolve(Source(path=str(folder / "chats.jsonl")), Path("/")) == [folder / "chats.jsonl"]
    assert resolve(Source(path=str(folder / "*.jsonl")), Path("/")) == [folder / "chats.jsonl"]


def test_a_path_in_a_stages_artifact_is_looked_up_there(folder: Path) -> None:
    assert resolve(Source(path="pairs.json", stage="world"), folder, artifact=folder / "more") == [folder / "more/pairs.json"]


def test_the_hub_has_no_local_files(folder: Path) -> None:
    assert resolve(Source(path="hub:owner/name"), folder) == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("chat.jsonl", "did you mean 'chats.jsonl'"),
        ("mor/x.json", "there is no folder"),
        ("more/deep/*.csv", "no data at"),
        ("zzz", "no data at 'zzz'; looked in"),
    ],
)
def test_a_path_that_matches_nothing_is_told_with_what_comes_nearest(path: str, hint: str, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        resolve(Source(path=path), folder)
    assert hint in str(caught.value)


def test_a_folder_without_data_says_which_files_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file with \.jsonl"):
        resolve(Source(path="empty"), tmp_path)


def test_the_digest_depends_on_content_kind_and_order_but_not_on_place_or_name(tmp_path: Path) -> None:
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    a, b, moved = write("a.jsonl", "1"), write("b.jsonl", "2"), write("elsewhere/c.jsonl", "1")
    assert digest([a, b]) == digest([moved, b])
    assert len({digest([a, b]), digest([b, a]), digest([a]), digest([write("d.jsonl", "3"), b]), digest([write("a.txt", "1"), b])}) == 5


def test_reading_stops_at_the_first_row_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": \n', encoding="utf-8")
    rows = read_rows(Source(path="a.jsonl"), [path])
    assert next(rows).value == {"text": "x"}
    with pytest.raises(DataError, match="row 2: not valid JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("hub:o/n", ("o/n", None, None, "train")),
        ("hub:o/n@v1", ("o/n", "v1", None, "train")),
        ("hub:o/n@v1:main:test", ("o/n", "v1", "main", "test")),
        ("hub:o/n::test", ("o/n", None, None, "test")),
    ],
)
def test_a_hub_path_is_taken_apart(path: str, place: tuple[str, str | None, str | None, str]) -> None:
    parsed = parse(path)
    assert (parsed.repository, parsed.revision, parsed.config, parsed.split) == place


@pytest.mark.parametrize("path", ["hub:name", "hub:o/n:a:b:c", "hub:a/b/c"])
def test_a_hub_path_that_names_nothing_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="wanted hub:owner/name"):
        parse(path)


def test_what_the_orchestrator_imports_of_data_is_light() -> None:
    """Each of these is hundreds of milliseconds of CPU that `pipeline --help` would pay."""
    code = (
        "import sys, data.config; before = set(sys.modules)\n"
        "import time; start = time.process_time()\n"
        "import data.errors, data.sources, data.formats, data.records\n"
        "print(time.process_time() - start, *sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    seconds, *modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "numpy", "pyarrow", "jinja2"} & set(modules)
    assert float(seconds) < 0.1


@pytest.mark.parametrize("path", ["../secret.jsonl", "/etc/*.jsonl", "parts/../../secret.jsonl", "~/secret.jsonl"])
def test_a_path_within_an_artifact_cannot_leave_it(tmp_path, path):
    (tmp_path / "secret.jsonl").write_text("{}\n")
    (tmp_path / "artifact" / "parts").mkdir(parents=True)
    with pytest.raises(DataError, match="leaves the artifact of 'world'"):
        resolve(Source(stage="world", path=path), tmp_path, tmp_path / "artifact")
