"""Whatever is killed, and whenever: the next attempt gives the bits of the uninterrupted run. For pretraining, SFT, and SFT with LoRA."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from stages.contract import Checkpoints, StageError
from stages.core import checkpoints
from stages.core.interrupt import Interrupted

STEPS = 9
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills"]


def stories(count):
    source = random.Random(7)
    return [{"text": " ".join(source.choices(WORDS, k=source.randint(4, 20)))} for _ in range(count)]


def chats(count):
    source = random.Random(8)

    def say():
        return " ".join(source.choices(WORDS, k=source.randint(2, 8)))

    return [{"messages": [{"role": "user", "content": say()}, {"role": "assistant", "content": say()}]} for _ in range(count)]


@pytest.fixture(params=["pretrain", pytest.param("sft", marks=pytest.mark.slow), pytest.param("sft with LoRA", marks=pytest.mark.slow)])
def jobs(request, make_job, base_folder):
    """Makes equal jobs in different folders. Steps take two micro-batches, so that accumulation is resumed too."""
    optimizer = {"learning_rate": 1e-2}
    hardware = {"micro_batch": 1}

    def make(name):
        every = Checkpoints(every_steps=2)
        if request.param == "pretrain":
            config = {"model": {"hidden_size": 32, "layers": 2, "heads": 4, "context": 64}, "tokenizer": "words", "tokens": STEPS * 128}
            config |= {"data": [{"path": "x"}], "batch_tokens": 128, "optimizer": optimizer, "held_out": 0.1}
            inputs, rows = {"tokenizer": ("tokenizer", base_folder)}, {"data.0": stories(100)}
            return make_job("pretrain", config, name=name, inputs=inputs, rows=rows, hardware=hardware, checkpoints=every)
        config = {"model": "base", "data": [{"path": "x"}], "batch_tokens": 128, "optimizer": optimizer, "epochs": 0.6, "held_out": 0.1}
        if "LoRA" in request.param:
            config["adapter"] = {"rank": 4, "dropout": 0.1}  # dropout: random numbers must be the same ones again
        inputs, rows = {"model": ("causal-lm", base_folder)}, {"data.0": chats(120)}
        return make_job("sft", config, name=name, inputs=inputs, rows=rows, hardware=hardware, checkpoints=every)

    return make


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs, and the next attempt begins from the disk alone."""


@pytest.fixture
def attempt(monkeypatch, run_stage):
    """Runs a job; `end(step)` is called after each optimizer step, before anything is saved. A Killed it raises ends the attempt."""
    from stages.core.boundary import Boundary

    before = Boundary.on_step_end

    def run(job, end=lambda step: None):
        def on_step_end(self, args, state, control, **kwargs):
            try:
                end(state.global_step)
            except Killed:
                self._trainer.saver.finish()  # a kill ends this thread; here it would seal and delete beneath the next attempt
                raise
            before(self, args, state, control, **kwargs)

        monkeypatch.setattr(Boundary, "on_step_end", on_step_end)
        try:
            return run_stage(job)
        except Killed:
            return None

    return run


def kill(at):
    def end(step):
        if step == at:
            raise Killed

    return end


def weights(job):
    return hashlib.sha256((job.artifact / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def whole(jobs, attempt):
    job = jobs("whole")
    assert attempt(job).steps >= STEPS
    return weights(job)


def test_killed_and_resumed_equals_uninterrupted(jobs, attempt, whole):
    job = jobs("killed")
    for step in (1, 5, 8):  # before any checkpoint, and between checkpoints
        assert attempt(job, kill(at=step)) is None
    assert attempt(job).steps >= STEPS
    assert weights(job) == whole
    lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, lines[0]["steps"] + 1)), "each step is recorded once"
    assert all(a["tokens"] < b["tokens"] for a, b in pairwise(lines))


def test_a_signal_ends_in_a_checkpoint_and_a_rerun_goes_on(jobs, attempt, whole):
    job = jobs("stopped")
    with pytest.raises(Interrupted, match="after step 3"):
        attempt(job, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None)
    assert checkpoints.step_of(checkpoints.latest(job.folder / "checkpoints")) == 3
    assert not job.artifact.exists()
    attempt(job)
    assert weights(job) == whole


def test_a_damaged_checkpoint_costs_steps_and_not_the_result(jobs, attempt, whole):
    job = jobs("damaged")
    assert attempt(job, kill(at=7)) is None
    state = checkpoints.latest(job.folder / "checkpoints") / "optimizer.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    attempt(job)
    assert weights(job) == whole


def test_a_checkpoint_without_the_optimizers_state_is_refused_and_not_resumed_without_it(jobs, attempt, monkeypatch):
    job = jobs("bare")
    assert attempt(job, kill(at=5)) is None
    newest = checkpoints.Saver.newest

    def losing(self):
        found = newest(self)
        (found / "optimizer.pt").unlink()
        return found

    monkeypatch.setattr(checkpoints.Saver, "newest", losing)
    with pytest.raises(StageError, match=r"step-000004 was whole and now has no optimizer\.pt"):
        attempt(job)


def test_a_run_killed_after_its_last_step_takes_no_step_more(jobs, attempt, whole):
    job = jobs("late")
    attempt(job)
    (job.artifact / "model.safetensors").unlink()
    taken = []
    attempt(job, taken.append)
    assert taken == []
    assert weights(job) == whole


def test_checkpoints_hold_all_that_resuming_needs_and_no_pickled_arguments(jobs, attempt):
    job = jobs("files")
    attempt(job)
    names = {path.name for path in checkpoints.latest(job.folder / "checkpoints").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", checkpoints.SEAL} <= names
    assert not list(job.folder.rglob("training_args.bin"))
    assert len(list((job.folder / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_a_process_killed_with_sigkill_at_any_moment_resumes_to_the_same_bits(jobs, attempt, whole):
    job = jobs("shot")
    (job.folder / "job.json").write_text(job.model_dump_json())
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    kills = 0
    for wanted in (1, 3, 5, 7, 99):  # the moment within a step or a checkpoint is left to chance
        process = subprocess.Popen([sys.executable, "-m", "stages", str(job.folder / "job.json")], env=settings, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            lines = (job.folder / "metrics.jsonl").read_text().splitlines() if (job.folder / "metrics.jsonl").exists() else []
            if len(lines) >= wanted:
                process.kill()
            time.sleep(0.001)
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills >= 2
    assert weights(job) == whole
