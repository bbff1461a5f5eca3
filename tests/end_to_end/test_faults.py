"""What goes wrong around a stage: disks that are full or cannot be written, files that are cut or changed, a process that dies or hangs."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_stages import pretrain, sft
from stages.contract import FAILED, Checkpoints, Hardware
from stages.core import checkpoints
from tests.command import CANARY

ROOT = Path(__file__).resolve().parents[2]
SURROUNDINGS = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def stage(tmp_path):
    """A tiny stage with checkpoints at every second step, ready to be started as a process."""

    def make(kind=pretrain, *, checkpoint=None, **hardware):
        job = kind(tmp_path / "stage", tmp_path)
        settings = {"gpus": 0, "threads": 1, "micro_batch": 1, "precision": "fp32", **hardware}
        job = job.model_copy(update={"hardware": Hardware(**settings), "checkpoints": checkpoint or Checkpoints(every_steps=2)})
        (job.folder / "attempts" / "1").mkdir(parents=True)
        (job.folder / "job.json").write_text(job.model_dump_json())
        return job

    return make


def run(job, *, before=None, launcher=()):
    argv = [sys.executable, *launcher, "-m", "stages", str(job.folder / "job.json")]
    return subprocess.run(argv, env=SURROUNDINGS, capture_output=True, text=True, timeout=300, preexec_fn=before, check=False)


def full_after(size):
    """Files larger than this cannot be written, as on a disk without room: writing fails, and no signal ends the process."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def whole(job):
    return [path.name for path in sorted((job.folder / "checkpoints").glob("step-*")) if checkpoints.damage(path) is None]


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_stage_with_a_sentence_and_the_next_attempt_goes_on(stage):
    """As under a quota; a disk that is full is `test_full_disk.py`."""
    job = stage(pretrain)
    # The weights fit, the optimizer's state, twice as large, does not.
    done = run(job, before=full_after(100_000))
    assert done.returncode == FAILED
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert "the earlier ones are whole" in done.stderr.splitlines()[-1]
    assert whole(job) == []
    assert run(job).returncode == 0


@pytest.mark.slow
def test_a_killed_process_of_two_takes_the_other_down_at_once(stage):
    job = stage(sft, processes=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    argv = [sys.executable, *launcher, "-m", "stages", str(job.folder / "job.json")]
    log = (job.folder / "log.txt").open("w")
    group = subprocess.Popen(argv, env=SURROUNDINGS, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (job.folder / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert group.poll() is None, (job.folder / "log.txt").read_text()[-2000:]
        time.sleep(0.02)
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(group.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[1]), signal.SIGKILL)
    assert group.wait(timeout=60) != 0
    from pipeline.ending import ending
    from pipeline.store import Attempt

    (job.folder / "attempts" / "1" / "log.txt").write_text((job.folder / "log.txt").read_text())
    found = ending(Attempt(1, job.folder / "attempts" / "1"), group.returncode, stopped=False)
    assert "was ended by signal 9" in found.first
    assert found.unforeseen


@pytest.mark.slow
def test_a_step_that_hangs_ends_the_process_and_tells_where_it_stood(stage):
    job = stage(pretrain, step_timeout=15.0)  # a busy machine may take seconds to the first step
    hang = (
        "import sys, time; import stages.core.causal as causal; from stages.__main__ import main\n"
        "def stuck(self, model, batch):\n    time.sleep(600)\n"
        "causal.CausalTraining.summed_loss = stuck\n"
        "sys.exit(main([sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hang, str(job.folder / "job.json")], env=SURROUNDINGS, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == FAILED
    told = (job.folder / "attempts" / "1" / "stacks-0.txt").read_text()
    assert "Timeout" in told
    assert "in stuck" in told


def test_a_damaged_row_is_found_before_the_first_step(stage, tmp_path):
    job = stage(pretrain)
    rows = tmp_path / "texts.jsonl"
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines[:57], '{"text": 7}', *lines[58:]]) + "\n")
    done = run(job)
    assert done.returncode == 2
    assert "texts.jsonl" in done.stderr
    assert "58" in done.stderr
    assert not (job.folder / "metrics.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(stage):
    """A read-only mount in a namespace of its own, since root may write anywhere else."""
    job = stage(pretrain)
    mount = f"mount --bind {job.folder} {job.folder} && mount -o remount,ro,bind {job.folder}"
    start = f"{mount} && exec {sys.executable} -m stages {job.folder / 'job.json'}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", start], env=SURROUNDINGS, capture_output=True, text=True, timeout=240, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == FAILED
    assert "Read-only file system" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_planted_token_is_in_nothing_that_a_run_writes(demo_run):
    """Logs, metrics, checkpoints, artifacts, manifests, events: every byte of a whole run of real stages."""
    files = [file for file in demo_run.rglob("*") if file.is_file()]
    assert len(files) > 50
    assert [str(file) for file in files if CANARY.encode() in file.read_bytes()] == []
