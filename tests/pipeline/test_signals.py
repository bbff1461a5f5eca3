"""What ends a run from outside: signals, kills, a second run at the same time."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.lock import is_held
from stages.contract import DONE, FAILED, HELD, INTERRUPTED
from tests.pipeline.conftest import Workshop

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(Path(__file__).with_name("toy_pipeline.py"))]
PATIENCE = 60.0
SHORT = """\
name: chain
stages:
  base: {kind: toy-train}
  exam: {kind: toy-exam, models: [base]}
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def stage_pid(workshop: Workshop) -> int:
    return int(json.loads(workshop.run.lock.read_text())["stage_pid"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(workshop: Workshop) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `pipeline run` as a process and waits until its stage `base` is under way."""
    started: list[subprocess.Popen[str]] = []
    workshop.write(SHORT)

    def begin(behaviour: str, *words: str) -> subprocess.Popen[str]:
        argv = [*PROGRAM, "run", "chain.yaml", f"stages.base.behaviour={behaviour}", *words]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        process = subprocess.Popen(argv, cwd=workshop.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        wait_for(lambda: (workshop.folder("base").path / "ready").exists() or process.poll() is not None)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    if workshop.run.lock.exists() and is_held(workshop.run.lock):
        os.killpg(stage_pid(workshop), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_the_stage_after_a_checkpoint_and_the_same_command_goes_on(
    workshop: Workshop, start: Callable[..., subprocess.Popen[str]], number: int
):
    process = start("wait")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert "stopped at base; to go on: pipeline run chain.yaml" in output
    folder, asked = workshop.folder("base").path, "Ctrl-C" if number == signal.SIGINT else number.name
    assert json.loads((folder / "attempts/1/exit.json").read_text())["how"] == f"was stopped by {asked}, after a checkpoint"
    assert not is_held(workshop.run.lock)
    (folder / "go").touch()
    assert workshop.carry_out("--only", "base", "stages.base.behaviour=wait") == DONE
    assert json.loads((folder / "result.json").read_text())["notes"] == ["took 2 steps"]


def test_a_signal_that_was_ignored_stays_ignored(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    """As `nohup` asks: the terminal may close."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("wait")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.6)
    (workshop.folder("base").path / "go").touch()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == DONE


def test_a_second_signal_ends_a_stage_that_does_not_listen(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    process = start("deaf")
    stage = stage_pid(workshop)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert alive(stage)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert not alive(stage)
    [ended] = [attempt.exit for attempt in workshop.folder("base").attempts()]
    assert (ended or {})["how"] == "was stopped by Ctrl-C, without a new checkpoint", "and not by a signal that nobody sent"


def test_a_schedulers_warning_asks_once_however_often_it_comes(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    process = start("deaf")
    stage = stage_pid(workshop)
    for _ in range(2):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.4)
    assert alive(stage), "its time is not over yet"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    assert alive(stage)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED


def test_a_stage_that_takes_longer_than_its_grace_is_ended(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    process = start("deaf", "--grace", "0.3")
    stage = stage_pid(workshop)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert not alive(stage)


def test_a_killed_stage_ends_the_run_in_1(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    process = start("wait")
    os.killpg(stage_pid(workshop), signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == FAILED
    assert "was ended by signal 9" in output


def test_a_second_run_leaves_with_3_and_names_the_holder(
    workshop: Workshop, start: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
):
    process = start("wait")
    assert workshop.carry_out() == HELD
    err = capsys.readouterr().err
    assert f"held by process {process.pid} on " in err
    assert f"which runs stage base as process {stage_pid(workshop)} in {workshop.folder('base').path.name}" in err
    assert workshop.call("clean", "chain.yaml", "--yes") == DONE  # nothing to remove
    assert workshop.call("status", "chain.yaml") == DONE
    out = capsys.readouterr().out
    assert "held by process" in out
    assert "runs" in out
    assert "step 2/4" in out


def test_whoever_looks_at_a_run_that_goes_on_is_told_so(
    workshop: Workshop, start: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
):
    start("wait")
    assert workshop.call("plan", "chain.yaml") == DONE
    out = capsys.readouterr().out
    assert "from step-000002; attempt 1 runs now" in out
    assert "runs/chain is held by process" in out
    (workshop.folder("base").path / "metrics.jsonl").unlink()
    assert workshop.call("status", "chain.yaml") == DONE
    assert re.search(r"base +runs +step 2$", capsys.readouterr().out, flags=re.MULTILINE), "the log's last line, where there are no numbers"


def test_a_recipe_that_was_edited_meanwhile_takes_nothing_from_the_run_that_goes_on(
    workshop: Workshop, start: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
):
    start("wait")
    live = workshop.folder("base").path
    other = "stages.base.steps=3"
    assert workshop.call("status", "chain.yaml", other) == DONE
    assert f"with other settings it runs now, in {live.name}" in capsys.readouterr().out
    assert workshop.call("clean", "chain.yaml", other) == DONE
    out = capsys.readouterr().out
    assert "would remove" not in out
    assert "what it works on is kept" in out
    assert "nothing to remove" in out


def test_a_killed_orchestrator_leaves_its_lock_with_the_stage_that_lives_on(
    workshop: Workshop, start: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
):
    process = start("wait")
    stage = stage_pid(workshop)
    process.kill()
    process.wait()
    assert alive(stage)
    assert is_held(workshop.run.lock)
    assert workshop.carry_out() == HELD
    assert f"stop it with: kill -- -{stage}" in capsys.readouterr().err
    (workshop.folder("base").path / "go").touch()
    wait_for(lambda: not is_held(workshop.run.lock))
    # The orphan finished its work: only the manifest is missing, and nothing is done twice.
    assert workshop.actions()["base"] == "seal"
    assert workshop.carry_out("--only", "base") == DONE
    assert workshop.attempts()["base"] == 1


def test_killed_orchestrator_and_stage_resume_from_the_checkpoint(workshop: Workshop, start: Callable[..., subprocess.Popen[str]]):
    process = start("wait")
    stage = stage_pid(workshop)
    process.kill()
    os.killpg(stage, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_held(workshop.run.lock))
    assert workshop.plan().step("base").reason == "from step-000002; attempt 1 ended unseen"
    assert workshop.carry_out("--only", "base") == DONE
    assert json.loads((workshop.run.path / "base/result.json").read_text())["notes"] == ["took 2 steps"]


def signal_once_ready(workshop: Workshop, *numbers: int) -> threading.Thread:
    """Sends signals to this process, one after the other, once stage `base` is under way."""

    def send() -> None:
        wait_for(lambda: (workshop.folder("base").path / "ready").exists())
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(("behaviour", "numbers"), [("wait", (signal.SIGHUP,)), ("deaf", (signal.SIGTERM, signal.SIGTERM))])
def test_the_first_signal_asks_and_the_second_ends(
    workshop: Workshop, behaviour: str, numbers: tuple[int, ...], capsys: pytest.CaptureFixture[str]
):
    workshop.write(SHORT)
    thread = signal_once_ready(workshop, *numbers)
    code = workshop.carry_out(f"stages.base.behaviour={behaviour}")
    thread.join()
    assert code == INTERRUPTED
    assert "stopped at base" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stage_that_ends_well_after_a_signal_is_sealed_and_the_run_still_stops(workshop: Workshop):
    workshop.write(SHORT)
    thread = signal_once_ready(workshop, signal.SIGTERM)
    (workshop.folder("base").path).mkdir(parents=True)
    thread_go = threading.Timer(
        0.0,
        lambda: (wait_for((workshop.folder("base").path / "ready").exists), time.sleep(0.5), (workshop.folder("base").path / "go").touch()),
    )
    thread_go.start()
    code = workshop.carry_out("stages.base.behaviour=deaf")
    thread.join()
    thread_go.join()
    assert code == INTERRUPTED
    assert workshop.actions("stages.base.behaviour=deaf") == {"base": "skip", "exam": "run"}


def test_an_error_of_our_own_ends_the_stage_too(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from pipeline.progress import Plain

    def broken(self: Plain, record: dict[str, object]) -> None:
        raise RuntimeError("a bug of ours")

    workshop.write(SHORT)
    monkeypatch.setattr(Plain, "seen", broken)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        workshop.carry_out("stages.base.behaviour=wait")
    assert not is_held(workshop.run.lock)
    assert not alive(stage_pid(workshop))
