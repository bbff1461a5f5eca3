"""Streams of the Hub: real `datasets` streams, over files here that break off as a line does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.config import Source
from data.errors import DataError
from data.formats import Text
from data.hub import WAITS, read_hub
from data.reading import Stream
from data.sources import read_rows

ROWS = 700


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data set of 700 rows in three files whose line can be cut: `line.cuts` are the rows behind which it goes down, once each."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    for shard, (begin, end) in enumerate([(0, 300), (300, 400), (400, ROWS)]):
        table = pyarrow.table({"text": [f"row {number}" for number in range(begin, end)]})
        pyarrow.parquet.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=64)
    load = datasets.load_dataset

    class Line:
        cuts: list[int] = []
        asked: list[Any] = []
        waited: list[float] = []

    class Cut:
        """A stream of datasets that breaks off."""

        def __init__(self, stream: Any, begun: int = 0) -> None:
            self.stream, self.given = stream, begun

        def __iter__(self) -> Iterator[Any]:
            for value in self.stream:
                if Line.cuts and int(value["text"].split()[1]) == Line.cuts[0]:
                    Line.cuts.pop(0)
                    raise ConnectionError("the line is down")
                yield value

        def skip(self, count: int) -> "Cut":
            return Cut(self.stream.skip(count))

        def load_state_dict(self, state: Any) -> None:
            self.stream.load_state_dict(state)

    def load_dataset(*names: Any, **options: Any) -> Cut:
        Line.asked.append((names, options))
        return Cut(load("parquet", data_files=[str(tmp_path / f"{shard}.parquet") for shard in range(3)], split="train", streaming=True))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    Line.cuts, Line.asked, Line.waited = [], [], []
    monkeypatch.setattr("time.sleep", Line.waited.append)
    return Line


def texts(path: str = "hub:o/n@v1:main:test", skip: int = 0) -> list[str]:
    return [row.value["text"] for row in read_hub(path, skip)]  # type: ignore[index]


WHOLE = [f"row {number}" for number in range(ROWS)]


def test_rows_come_one_by_one_from_the_revision_that_is_named(line: Any) -> None:
    rows = read_rows(Source(path="hub:o/n@v1:main:test"), [])
    assert next(rows).value == {"text": "row 0"}
    assert line.asked == [(("o/n", "main"), {"split": "test", "revision": "v1", "streaming": True})]


def test_a_stream_that_breaks_off_goes_on_behind_the_last_row_that_came(line: Any, capsys: pytest.CaptureFixture[str]) -> None:
    line.cuts = [0, 5, 64, 299, 300, 301, 650]
    assert texts() == WHOLE
    assert "broke off after row 299 (ConnectionError)" in capsys.readouterr().out


def test_the_streams_own_position_is_taken_where_it_can_tell_one(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.IterableDataset, "skip", lambda *_: pytest.fail("counted again from the first row"))
    cut_class = type(datasets.load_dataset())
    # What the class above yields last is not what the stream behind it has given last: it gave one row more, which was lost on the line.
    monkeypatch.setattr(cut_class, "state_dict", lambda self: self.state, raising=False)

    def rows(self: Any) -> Iterator[Any]:
        for value in self.stream:
            if line.cuts and int(value["text"].split()[1]) == line.cuts[0]:
                line.cuts.pop(0)
                raise ConnectionError("the line is down")
            self.state = self.stream.state_dict()
            yield value

    monkeypatch.setattr(cut_class, "__iter__", rows)
    line.cuts = [5, 64, 299, 650]
    assert texts() == WHOLE


@pytest.mark.parametrize("skip", [0, 1, 299, 300, 699, 700, 900])
def test_reading_begins_behind_any_row(line: Any, skip: int) -> None:
    assert texts(skip=skip) == WHOLE[skip:]


def test_a_line_that_stays_down_is_told_with_its_row_after_all_tries(line: Any) -> None:
    line.cuts = [400] * 20
    rows = read_hub("hub:o/n")
    with pytest.raises(DataError, match="cannot be read after row 400: ConnectionError: the line is down"):
        list(rows)
    assert line.waited == list(WAITS)


def test_what_does_not_pass_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(DataError, match="after row 0: FileNotFoundError: no such data set"):
        texts()


def test_a_stream_of_records_with_a_limit_reads_no_further(line: Any) -> None:
    line.cuts = [10]
    stream = Stream([Source(path="hub:o/n", limit=10)], [[]], Text)
    assert [record.text for _, record in stream] == WHOLE[:10]
    assert line.cuts == [10], "the row behind the last one was never asked for"
