"""A run as a job of Slurm: what is submitted, and what the job does when it is warned, with stand-ins for Slurm's own programs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.lock import is_held
from pipeline.recipe import load
from pipeline.slurm import job_script
from stages.contract import DONE, FAILED, INTERRUPTED, WRONG_INPUT
from tests.pipeline.conftest import Workshop

TOYS = [sys.executable, str(Path(__file__).with_name("toy_pipeline.py")), "run", "chain.yaml"]
GPUS = ("hardware.nodes=2", "hardware.gpus=8", "hardware.slurm.time=24:00:00", "hardware.slurm.partition=gpu", "hardware.slurm.account=us")


@pytest.fixture
def cluster(workshop: Workshop) -> Path:
    """A folder first on the path, in which Slurm's programs note how they were called."""
    folder = workshop.root / "bin"
    folder.mkdir()
    for name, answer in (("sbatch", "echo Submitted batch job 17"), ("scontrol", 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; fi')):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.called\n{answer}\n')
        (folder / name).chmod(0o755)
    workshop.monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    workshop.monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    workshop.monkeypatch.setenv("SLURM_JOB_ID", "17")
    workshop.monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    return folder


@pytest.fixture
def begun(workshop: Workshop) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts a job; what a test that fails leaves of it is ended."""
    started: list[subprocess.Popen] = []

    def begin(script: Path) -> subprocess.Popen:
        started.append(subprocess.Popen(["bash", str(script)], start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if workshop.run.lock.exists() and is_held(workshop.run.lock):
        os.killpg(json.loads(workshop.run.lock.read_text())["stage_pid"], signal.SIGKILL)


def called(cluster: Path, name: str) -> list[str]:
    file = cluster / f"{name}.called"
    return file.read_text().splitlines() if file.exists() else []


def job(workshop: Workshop, *command: str) -> Path:
    file = workshop.root / "job.sbatch"
    file.write_text(job_script(workshop.recipe("hardware.gpus=0"), command, workshop.root / "runs" / "chain", workshop.root))
    return file


def test_a_dry_run_prints_a_job_that_bash_reads_and_submits_nothing(workshop, cluster, capsys):
    assert workshop.carry_out("--slurm", "--dry-run", *GPUS) == DONE
    text = capsys.readouterr().out
    for line in (
        "nodes=2",
        "gpus-per-node=8",
        "ntasks-per-node=1",
        "time=24:00:00",
        "partition=gpu",
        "account=us",
        "requeue",
        "signal=B:USR1@300",
    ):
        assert f"#SBATCH --{line}\n" in text
    assert f"run chain.yaml {' '.join(GPUS)}" in text
    assert '"hardware.hosts=$hosts" hardware.reach=srun &' in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert called(cluster, "sbatch") == []
    assert not workshop.run.path.exists()


def test_a_job_is_written_beside_its_run_and_submitted(workshop, cluster, capsys):
    assert (
        workshop.carry_out("--slurm", "hardware.gpus=0", "hardware.slurm.options=['--exclusive']", "hardware.slurm.setup=['module load x']")
        == DONE
    )
    assert "Submitted batch job 17" in capsys.readouterr().out
    script = workshop.run.path.resolve() / "job.sbatch"
    assert called(cluster, "sbatch") == [str(script)]
    text = script.read_text()
    assert "#SBATCH --exclusive\n" in text
    assert "\nmodule load x\n" in text
    assert "gpus-per-node" not in text
    assert "hosts" not in text


def test_what_slurm_must_know_and_what_it_decides_is_told_with_its_line(workshop, cluster, capsys):
    assert workshop.carry_out("--slurm", "--dry-run") == WRONG_INPUT
    assert "hardware.gpus: found auto, and Slurm must be told how many GPUs each node is to give" in capsys.readouterr().err
    assert workshop.carry_out("--slurm", "--dry-run", "hardware.gpus=1", "hardware.hosts=[a, b]") == WRONG_INPUT
    assert "hardware.hosts: names nodes, and Slurm chooses them" in capsys.readouterr().err
    assert workshop.carry_out("--slurm", "--redo", "chat", "hardware.gpus=1") == WRONG_INPUT
    assert workshop.carry_out("--slurm", "hardware.gpus=1", "hardware.slurm.time=a day") == WRONG_INPUT
    assert "hardware.slurm.time" in capsys.readouterr().err
    assert called(cluster, "sbatch") == []


def test_data_are_checked_before_anything_is_submitted(workshop, cluster, capsys):
    (workshop.root / "chats.jsonl").unlink()
    assert workshop.carry_out("--slurm", "hardware.gpus=1") == WRONG_INPUT
    assert "chats.jsonl" in capsys.readouterr().err
    assert called(cluster, "sbatch") == []


def test_models_of_the_hub_are_fetched_before_anything_is_submitted(workshop, cluster, capsys):
    fetched = []
    workshop.monkeypatch.setattr("pipeline.hub.fetch_all", lambda plan: fetched.append((len(plan.steps), called(cluster, "sbatch"))))
    assert workshop.carry_out("--slurm", "hardware.gpus=0") == DONE
    assert fetched == [(len(workshop.recipe().stages), [])]
    assert not is_held(workshop.run.lock)

    def nothing(plan):
        raise RecipeError("hub:them/model cannot be had")

    workshop.monkeypatch.setattr("pipeline.hub.fetch_all", nothing)
    assert workshop.carry_out("--slurm", "hardware.gpus=0") == WRONG_INPUT
    assert "hub:them/model cannot be had" in capsys.readouterr().err
    assert len(called(cluster, "sbatch")) == 1


def test_without_slurm_or_with_its_refusal_one_sentence_tells(workshop, cluster, capsys):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    assert workshop.carry_out("--slurm", "hardware.gpus=1") == FAILED
    assert "invalid partition" in capsys.readouterr().err
    workshop.monkeypatch.setattr(shutil, "which", lambda name: None)
    shutil.rmtree(workshop.run.path)
    assert workshop.carry_out("--slurm", "hardware.gpus=1") == WRONG_INPUT
    assert "there is no sbatch here" in capsys.readouterr().err
    assert not workshop.run.path.exists(), "told before anything is fetched or written"


def test_a_warned_job_writes_a_checkpoint_queues_again_and_goes_on(workshop, cluster, begun):
    script = job(workshop, *TOYS, "stages.base.behaviour=wait")
    first = begun(script)
    folder = workshop.folder("base")
    deadline = time.monotonic() + 60
    while not (folder.path / "ready").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == INTERRUPTED
    assert called(cluster, "scontrol") == ["requeue 17"]
    (folder.path / "go").touch()
    assert subprocess.run(["bash", str(script)], check=False).returncode == DONE
    assert [attempt.exit["code"] for attempt in folder.attempts()] == [INTERRUPTED, DONE]
    assert len(called(cluster, "scontrol")) == 1


@pytest.mark.parametrize(("number", "ends", "again"), [("USR1", 130, True), ("TERM", 130, False), ("USR1", 1, False), ("", 0, False)])
def test_only_a_warned_and_interrupted_job_queues_again(workshop, cluster, begun, number, ends, again):
    """A job that was cancelled stays cancelled, and one that failed stays failed."""
    code = f"import signal, sys, time\nfor n in (10, 15): signal.signal(n, lambda *a: sys.exit({ends}))\nopen('up', 'w').close()\n"
    script = job(workshop, sys.executable, "-c", code + (f"sys.exit({ends})" if not number else "time.sleep(60)"))
    ran = begun(script)
    deadline = time.monotonic() + 30
    while not (workshop.root / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if number:
        ran.send_signal(getattr(signal, f"SIG{number}"))
    assert ran.wait(30) == ends
    assert called(cluster, "scontrol") == (["requeue 17"] if again else [])


def test_nodes_of_a_job_become_the_runs_hosts(workshop, cluster):
    """The file that the job writes is the one that the run reads."""
    given = workshop.recipe("hardware.gpus=0", "hardware.nodes=2")
    text = job_script(given, ["echo"], workshop.run.path.resolve(), workshop.root)
    workshop.run.path.mkdir(parents=True)
    subprocess.run(["bash", "-s"], input=text, text=True, check=True)
    hosts = workshop.run.path.resolve() / "hosts-17"
    assert load(workshop.file, [f"hardware.hosts={hosts}", "hardware.nodes=2"]).hardware.hosts == ("n1", "n2")
