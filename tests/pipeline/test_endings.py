"""How a stage ended: who failed first, what is started again, what hung."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import execute
from pipeline.ending import ending, last_lines
from pipeline.process import Stop, watch
from pipeline.store import Attempt
from stages.contract import AGAIN, DONE, FAILED, INTERRUPTED, WRONG_INPUT
from tests.pipeline.conftest import Workshop

LAUNCHER = """\
rank 0 says that its peer is gone
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : here
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 10)
  error_file: <N/A>
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 11)
"""

CRASH = """\
terminate called after throwing an instance of 'std::runtime_error'
Fatal Python error: Aborted
W0101 00:00:00.1 7 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 10 closing signal SIGTERM
E0101 00:00:00.2 7 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -6) local_rank: 1 (pid: 11) of binary: python
Traceback (most recent call last):
  File "run.py", line 1028, in main
    run(args)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
=======================================================
stages FAILED
-------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
-------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -6 (pid: 11)  (SIGABRT)
=======================================================
the other process says that its peer is gone
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    (tmp_path / "1").mkdir()
    return Attempt(1, tmp_path / "1")


def note(attempt: Attempt, rank: int, at: float, sentence: str, code: int = FAILED, known: bool = False) -> None:
    values = {"rank": rank, "code": code, "sentence": sentence, "known": known, "at": at}
    (attempt.folder / f"failed-{rank}.json").write_text(json.dumps(values))


def test_the_process_that_failed_first_speaks_first(attempt: Attempt):
    note(attempt, 0, 2.0, "the connection was closed by its peer")
    note(attempt, 1, 1.0, "ZeroDivisionError: division by zero")
    found = ending(attempt, 1, stopped=False)
    assert found.first == "process 1 failed first: ZeroDivisionError: division by zero"
    assert found.unforeseen


def test_a_killed_process_is_named_before_those_that_miss_it(attempt: Attempt):
    attempt.log.write_text(LAUNCHER)
    note(attempt, 0, 1.0, "the connection was closed by its peer")
    found = ending(attempt, 1, stopped=False)
    assert found.first == "process 1 was ended by signal 9"
    assert found.unforeseen


@pytest.mark.parametrize("code", [WRONG_INPUT, INTERRUPTED, AGAIN, FAILED])
def test_a_launcher_does_not_hide_the_exit_code_of_a_stage_that_knew_why(attempt: Attempt, code: int):
    attempt.log.write_text(LAUNCHER)
    note(attempt, 1, 1.0, "so it is", code=code, known=True)
    found = ending(attempt, 1, stopped=False)
    assert found.code == code
    assert not found.unforeseen


def test_the_launchers_report_does_not_push_a_processs_last_words_out_of_sight(attempt: Attempt):
    attempt.log.write_text(CRASH)
    assert last_lines(attempt.log) == [
        "terminate called after throwing an instance of 'std::runtime_error'",
        "Fatal Python error: Aborted",
        "W0101 00:00:00.1 7 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 10 closing signal SIGTERM",
        "the other process says that its peer is gone",
    ]


def test_the_shown_end_of_a_log_has_no_secrets(attempt: Attempt):
    attempt.log.write_text("denied for hf_abcdefghijklmnopqrstuvwx and for correct horse battery\n")
    assert last_lines(attempt.log, ["correct horse battery"]) == ["denied for [secret removed] and for [secret removed]"]


def test_a_stage_that_was_killed_is_started_again_and_goes_on(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--until", "base", "--max-restarts", "1", "stages.base.behaviour=crash-once") == DONE
    assert "base was ended by signal 9 in attempt 1; goes on from step-000002, 0 restarts left" in capsys.readouterr().err
    assert json.loads((workshop.run.path / "base/result.json").read_text())["notes"] == ["took 2 steps"]


@pytest.mark.parametrize(("behaviour", "code"), [("well", DONE), ("bug", FAILED), ("silent", FAILED)])
def test_a_launcher_that_fails_after_its_stage_is_done_takes_nothing_away(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], behaviour: str, code: int
):
    watch = execute.watch
    monkeypatch.setattr(execute, "is_launched", lambda hardware: True)
    monkeypatch.setattr(execute, "watch", lambda *given, **named: watch(*given, **named) or 1)
    assert workshop.carry_out("--until", "base", f"stages.base.behaviour={behaviour}") == code
    assert ("the launcher of base ended with exit code 1, after the stage was done" in capsys.readouterr().err) == (code == DONE)
    assert (workshop.folder("base").path / "manifest.json").exists() == (code == DONE)


def test_restarts_are_counted_and_without_them_a_killed_stage_ends_the_run(workshop: Workshop):
    assert workshop.carry_out("--until", "base", "stages.base.behaviour=doomed") == FAILED
    assert workshop.attempts()["base"] == 1
    assert workshop.carry_out("--until", "base", "--max-restarts", "1", "stages.base.behaviour=doomed") == FAILED
    assert workshop.attempts()["base"] == 3


@pytest.mark.parametrize(("behaviour", "code"), [("fail", FAILED), ("data", WRONG_INPUT)])
def test_what_a_stage_decided_itself_is_not_tried_again(workshop: Workshop, behaviour: str, code: int):
    assert workshop.carry_out("--until", "base", "--max-restarts", "5", f"stages.base.behaviour={behaviour}") == code
    assert workshop.attempts()["base"] == 1


def test_a_stage_that_rolled_back_goes_on_by_itself(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--until", "base", "stages.base.behaviour=roll-back-once") == DONE
    assert "base rolled back after a divergence in attempt 1; goes on from step-000002" in capsys.readouterr().err
    assert workshop.attempts()["base"] == 2


def test_a_stage_that_hangs_is_ended_and_leaves_its_stacks(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--until", "base", "stages.base.behaviour=hang", "hardware.step_timeout=0.3") == FAILED
    err = capsys.readouterr().err
    assert "base hung and was ended, in attempt 1" in err
    assert "process 0 took no step within hardware.step_timeout" in err
    assert "toy.py" in (workshop.folder("base").path / "attempts/1/stacks-0.txt").read_text()


@pytest.mark.parametrize("given", ["-1", "two"])
def test_a_number_of_restarts_that_is_none_is_told(workshop: Workshop, capsys: pytest.CaptureFixture[str], given: str):
    assert workshop.carry_out(f"--max-restarts={given}") == WRONG_INPUT
    assert f"found '{given}', wanted a whole number from 0" in capsys.readouterr().err


def test_a_clock_that_jumps_back_changes_no_duration(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    import time

    real = time.time
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * next(jumps))
    assert workshop.carry_out() == DONE
    for stage in ("rows", "base", "chat", "exam"):
        seconds = json.loads((workshop.run.path / stage / "attempts/1/exit.json").read_text())["seconds"]
        assert 0 <= seconds < 60
    assert set(workshop.actions().values()) == {"skip"}


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (130, "was stopped by Ctrl-C, after a checkpoint"),
        (-15, "was stopped by Ctrl-C, without a new checkpoint"),
        (1, "was stopped by Ctrl-C, without a new checkpoint"),
        (2, "found its data or settings wrong (exit code 2)"),
        (0, "ended well"),
    ],
)
def test_who_stopped_a_stage_is_told_unless_it_had_something_to_say_itself(attempt: Attempt, code: int, how: str):
    assert ending(attempt, code, stopped="Ctrl-C").how == how


def test_a_failure_that_a_stage_knows_is_told_also_where_a_stop_was_asked_for(attempt: Attempt):
    note(attempt, 1, 1.0, "interrupted after step 3", code=INTERRUPTED, known=True)
    note(attempt, 0, 2.0, "the disk takes no more", known=True)
    found = ending(attempt, INTERRUPTED, stopped="Ctrl-C")
    assert (found.code, found.known, found.how) == (FAILED, True, "failed (exit code 1), after Ctrl-C")
    assert found.first == "process 0 failed first: the disk takes no more"


@pytest.mark.parametrize(
    ("behaviour", "code", "says"),
    [
        ("fail", FAILED, ["base failed (exit code 1), after Ctrl-C, in attempt 1", "  | base: the loss is not a number at step 2"]),
        (
            "data",
            WRONG_INPUT,
            ["base found its data or settings wrong (exit code 2), in attempt 1", "  | base: rows.jsonl, row 7: found 3"],
        ),
        ("empty", FAILED, ["base said that it is done, but "]),
        ("bug", INTERRUPTED, ["stopped at base; to go on: pipeline run chain.yaml"]),
        ("roll-back-once", INTERRUPTED, ["stopped at base; to go on: pipeline run chain.yaml"]),
    ],
)
def test_what_a_stage_itself_had_to_say_is_shown_although_it_was_asked_to_stop(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], behaviour: str, code: int, says: list[str]
):
    def stopped_late(child: Any, stop: Stop, *given: Any, **named: Any) -> int:
        found = watch(child, stop, *given, **named)
        stop.count, stop.by = 1, "Ctrl-C"
        return found

    assert workshop.carry_out("--only", "rows") == DONE
    monkeypatch.setattr(execute, "watch", stopped_late)
    assert workshop.carry_out("--only", "base", f"stages.base.behaviour={behaviour}") == code
    said = capsys.readouterr().err
    for line in says:
        assert line in said
    assert ("stopped at base" in said) == (code == INTERRUPTED)
