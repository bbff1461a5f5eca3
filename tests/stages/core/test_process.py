"""The stage process: exit codes, last lines, result file. Stages are stood in for; `tests/end_to_end` runs real ones."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import DataError
from stages import __main__ as entry
from stages.contract import DONE, FAILED, INTERRUPTED, WRONG_INPUT, Hardware, Job, Result, StageError
from stages.core.interrupt import Interrupted, interruptible


@pytest.fixture
def job(tmp_path):
    return Job(stage="words", kind="tokenizer", folder=tmp_path, seed=1, config={})


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (DataError("row 3 is wrong"), WRONG_INPUT, "words: row 3 is wrong"),
        (StageError("no more steps"), FAILED, "words: no more steps"),
        (Interrupted("interrupted after step 3"), INTERRUPTED, "words: interrupted after step 3"),
        (KeyboardInterrupt(), INTERRUPTED, "words: stopped at once, without a new checkpoint"),
        (OSError(28, "No space left on device", "log.txt"), FAILED, "words: the disk takes no more: [Errno 28] No space left on device"),
        (RuntimeError("CUDA out of memory. Tried"), FAILED, "words: out of memory; lower hardware.micro_batch"),
        (ZeroDivisionError("division\nby zero"), FAILED, "words: ZeroDivisionError: division by zero"),
    ],
)
def test_every_failure_has_its_exit_code_and_ends_in_one_sentence(job, monkeypatch, capsys, error, code, last):
    def run(*_):
        raise error

    monkeypatch.setattr(entry, "run_function", lambda kind: run)
    assert entry.run_stage(job, None) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(last)
    assert not (job.folder / "result.json").exists()


def test_success_writes_the_result(job, monkeypatch):
    monkeypatch.setattr(entry, "run_function", lambda kind: lambda *_: Result(steps=3, metrics={"loss": 0.5}))
    assert entry.run_stage(job, None) == DONE
    assert Result.model_validate_json((job.folder / "result.json").read_text()).metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "job.json"), ('{"stage": "a"}', "kind"), (None, "job.json"), ({"kind": "nope"}, "nope"), ({"config": {"vocab": 3}}, "vocab")],
)
def test_a_wrong_job_is_one_sentence(tmp_path, capsys, content, said):
    path = tmp_path / "job.json"
    if isinstance(content, dict):
        content = json.dumps({"stage": "a", "kind": "tokenizer", "folder": str(tmp_path), "seed": 1, "config": {}} | content)
    if content is not None:
        path.write_text(content)
    assert entry.main([str(path)]) == WRONG_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert entry.main([]) == WRONG_INPUT


def test_reading_a_job_imports_no_torch_and_sets_up_the_process_before_it(tmp_path):
    (tmp_path / "job.json").write_text(
        json.dumps(
            {"stage": "world", "kind": "world", "folder": str(tmp_path), "seed": 1, "config": {"documents": 5, "chats": 3, "pairs": 2}}
        )
    )
    check = (
        "import sys, os; from stages.__main__ import main; code = main([sys.argv[1]]);"
        "assert code == 0, code; assert 'torch' not in sys.modules; assert os.environ['OMP_NUM_THREADS']"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", check, str(tmp_path / "job.json")], check=True, env=environment)
    assert (tmp_path / "artifact" / "stories.jsonl").read_text().count("\n") == 5
    assert json.loads((tmp_path / "artifact" / "artifact.json").read_text())["kind"] == "dataset"


@pytest.mark.parametrize(("rank", "code", "said"), [("0", 0, "told\n"), ("0", 3, "told\ntorn down\n"), (None, 0, "told\ntorn down\n")])
def test_a_worker_whose_stage_is_done_ends_before_anything_is_torn_down(rank, code, said):
    end = """
import atexit
from stages.__main__ import leave
class Thread:
    def __del__(self):
        print("torn down", flush=True)
kept = Thread()
atexit.register(print, "told")
leave(int(__import__("sys").argv[1]))
"""
    surroundings = {name: value for name, value in os.environ.items() if name != "RANK"} | ({"RANK": rank} if rank else {})
    done = subprocess.run(
        [sys.executable, "-c", end, str(code)], capture_output=True, text=True, env=surroundings | {"PYTHONPATH": os.getcwd()}
    )
    assert (done.returncode, done.stdout) == (code, said)


def test_a_crash_of_compiled_code_tells_where_it_was(tmp_path):
    crash = """
import os, runpy
import stages.core.trust
stages.core.trust.trust = lambda job: os.abort()
runpy.run_module("stages", run_name="__main__", alter_sys=True)
"""
    job = {"stage": "world", "kind": "world", "folder": str(tmp_path), "seed": 1, "config": {"documents": 5, "chats": 3, "pairs": 2}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    surroundings = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", crash, str(tmp_path / "job.json")], capture_output=True, text=True, env=surroundings)
    assert done.returncode == -6
    assert "Fatal Python error: Aborted" in done.stderr
    assert "in main" in done.stderr


def test_the_first_signal_asks_and_the_second_stops_at_once():
    import signal

    with interruptible() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_is_heard_even_where_nothing_can_be_printed(monkeypatch):
    """The log's disk may be full, and a signal may come in the middle of a line."""
    import builtins
    import signal

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with interruptible() as stop:
        monkeypatch.setattr(builtins, "print", full)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_a_worker_of_a_launcher_that_is_killed_does_not_live_on(tmp_path):
    """A launcher puts its workers into sessions of their own, where the orchestrator's signals do not find them."""
    worker = (
        "import os, time; from pathlib import Path; from stages.__main__ import die_with_launcher; die_with_launcher();"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], start_new_session=True)"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", launcher], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_zero_is_not_passed_over_on_a_cpu(job, monkeypatch):
    """accelerate leaves DeepSpeed out, without a word, where ACCELERATE_USE_CPU is set, as the orchestrator sets it on a CPU."""
    monkeypatch.setattr(os, "environ", {"ACCELERATE_USE_CPU": "true"})
    entry.prepare_process(job.model_copy(update={"hardware": Hardware(gpus=0, zero=2)}))
    assert "ACCELERATE_USE_CPU" not in os.environ
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"
