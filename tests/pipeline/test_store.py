"""The run directory, its lock, and what is shown while it fills."""

import fcntl
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import HeldError, StoreError
from pipeline.lock import held, is_held
from pipeline.progress import Live, Pace, Plain, Tail, duration, last_record, number, numbers, view
from pipeline.show import table_text
from pipeline.store import Run, StageFolder, read_json
from stages.contract import Table
from stages.core.files import write_json


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert read_json(file) == {"a": 1}
    file.write_text("{")
    with pytest.raises(StoreError, match=r"a\.json cannot be read"):
        read_json(file)
    assert read_json(tmp_path / "none.json") is None


def test_a_seal_finds_a_changed_byte(tmp_path: Path):
    folder = StageFolder(tmp_path)
    folder.artifact.mkdir()
    (folder.artifact / "weights").write_bytes(b"abc")
    (folder.path / "result.json").write_text("{}")
    manifest = folder.seal({"stage": "a"})
    assert folder.faults(manifest, contents=True) == []
    (folder.artifact / "weights").write_bytes(b"abd")
    assert folder.faults(manifest) == []
    assert folder.faults(manifest, contents=True) == ["artifact/weights has changed: its SHA-256 is not the manifest's"]


def test_a_link_moves_and_says_whether_it_did(tmp_path: Path):
    run = Run(tmp_path)
    for name in ("a-1", "a-2"):
        (tmp_path / name).mkdir()
    assert run.make_current("a", StageFolder(tmp_path / "a-1"))
    assert not run.make_current("a", StageFolder(tmp_path / "a-1"))
    assert run.make_current("a", StageFolder(tmp_path / "a-2"))
    current = run.current("a")
    assert current is not None
    assert current.path.name == "a-2"
    assert not Path(os.readlink(tmp_path / "a")).is_absolute()


def test_setting_aside_counts_up(tmp_path: Path):
    run = Run(tmp_path)
    folder = StageFolder(tmp_path / "a-1")
    assert run.set_aside(folder) is None
    for number_ in (1, 2):
        folder.path.mkdir()
        assert run.set_aside(folder) == tmp_path / f"a-1.{number_}"


def test_a_lock_holds_off_a_second_one_and_ends_with_it(tmp_path: Path):
    file = tmp_path / "run" / "lock"
    assert not is_held(file)
    with held(file) as lock:
        assert is_held(file)
        lock.tell(stage="base", stage_pid=77)
        with pytest.raises(HeldError, match=f"process {os.getpid()} on .* which runs stage base as process 77"), held(file):
            pass
    assert not is_held(file)
    with held(file):
        assert json.loads(file.read_text())["pid"] == os.getpid()
        assert "stage" not in json.loads(file.read_text())


def test_a_lock_lives_on_in_a_child_that_inherited_it(tmp_path: Path):
    file = tmp_path / "lock"
    with held(file) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,))
    assert is_held(file)
    child.communicate(b"\n")
    assert not is_held(file)


def test_whoever_only_looks_at_a_lock_holds_off_nobody(tmp_path: Path):
    file = tmp_path / "lock"
    with held(file):
        pass
    with file.open() as looking:  # as `is_held` does, at a bad moment
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with held(file):
            assert is_held(file)


def test_an_unreadable_holder_is_no_crash(tmp_path: Path):
    file = tmp_path / "lock"
    with held(file):
        file.write_text("")
        with pytest.raises(HeldError, match="process unknown on an unknown host"), held(file):
            pass


def test_a_tail_gives_each_whole_line_once(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.new() == []
    file.write_text('{"step": 1}\n{"ste')
    assert tail.new() == [{"step": 1}]
    with file.open("a") as stream:
        stream.write('p": 2}\nnot json\n[3]\n{"step": 4}\n')
    assert tail.new() == [{"step": 2}, {"step": 4}]
    assert tail.new() == []
    file.write_text('{"step": 2}\n')  # a resumed stage cut its tail off
    assert tail.new() == [{"step": 2}]
    assert Tail(file).new() == []


def test_the_last_record_is_the_last_whole_one(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    assert last_record(file) is None
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_record(file) == {"step": 2}


def test_plain_lines_come_at_intervals_and_hold_no_escapes():
    stream = io.StringIO()
    plain = Plain(stream, every_seconds=0.0)
    plain.open("base")
    plain.seen({"step": 1, "steps": 10, "loss": 2.5})
    time.sleep(0.01)
    plain.seen({"step": 5, "steps": 10, "loss": 1.25, "learning_rate": 1e-5})
    plain.close()
    assert stream.getvalue().splitlines()[0] == "  base  step 1/10  loss 2.5"
    assert "  base  step 5/10  loss 1.25  learning_rate 1e-05  0 s left" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    slow = io.StringIO()
    plain = Plain(slow, every_seconds=60.0)
    plain.open("base")
    plain.seen({"step": 1, "steps": 2})
    assert slow.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_moves_and_sentences_above_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    live = view(stream)
    assert isinstance(live, Live)
    live.say("base  run  [not] done yet")
    live.open("base")
    live.seen({"step": 1, "steps": 2, "loss": 2.5})
    live.seen({"loss": 2.5})
    live.progress.refresh()
    live.close()
    assert "[not] done yet" in stream.getvalue()
    assert "loss 2.5" in stream.getvalue()
    assert isinstance(view(io.StringIO()), Plain)


def test_no_colour_is_used_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    live = Live(stream)
    live.open("base")
    live.seen({"step": 1, "steps": 2, "loss": 2.5})
    live.progress.refresh()
    live.close()
    assert "\x1b[3" not in stream.getvalue()


def test_what_is_left_follows_from_the_steps_of_this_attempt(monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.left({"step": 500, "steps": 1000}) == ""
    assert pace.left({"step": 600, "steps": 1000}) == "40 s left"
    assert pace.left({"step": 1000, "steps": 1000}) == ""
    assert pace.left({"loss": 3}) == ""


def test_numbers_are_short_and_times_are_too():
    assert [number(value) for value in (3.0, 0.123456, 1e-5, 23_456.7, 29_940, 1e300)] == [
        "3",
        "0.1235",
        "1e-05",
        "23,457",
        "29,940",
        "1e+300",
    ]
    assert [duration(seconds) for seconds in (5, 600, 7_200, 400_000)] == ["5 s", "10 min", "2.0 h", "4.6 days"]
    assert numbers({"step": 3, "loss": 0.5, "name": "x"}) == "loss 0.5"


def test_a_table_lines_up_numbers_at_the_right_and_keeps_a_row_on_a_line():
    table = Table(title="T", columns=["model", "score"], rows=[["base", 0.5], ["a\nchat", 12.0], ["none", None], ["short"]])
    assert table_text(table).splitlines() == [
        "T",
        "-------------",
        "model   score",
        "-------------",
        "base      0.5",
        "a chat     12",
        "none",
        "short",
    ]
