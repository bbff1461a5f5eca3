"""Commands and surroundings of stage processes are values: compared here, started elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from pipeline import launch
from stages.contract import Hardware
from stages.ppo.config import PPO
from stages.pretrain.config import Pretrain
from stages.world.config import World

JOB = Path("/runs/a/base-1/job.json")
TRAIN = Pretrain.model_validate({"model": "./base", "data": [{"path": "x"}], "tokens": 1})


def test_one_process_needs_no_launcher():
    for hardware in (Hardware(gpus=0), Hardware(gpus=1, zero=0)):
        assert launch.command(JOB, launch.resolved(hardware, 8, TRAIN)) == [sys.executable, "-m", "stages", str(JOB)]


@pytest.mark.parametrize(
    ("hardware", "devices", "count"),
    [
        (Hardware(gpus="auto", zero=0), 4, 4),
        (Hardware(zero=3), 2, 2),
        (Hardware(gpus=1, zero=3), 2, 1),
        (Hardware(gpus=0, processes=2), 0, 2),
    ],
)
def test_several_processes_and_whatever_is_sharded_start_through_torchrun(hardware: Hardware, devices: int, count: int):
    argv = launch.command(JOB, launch.resolved(hardware, devices, TRAIN))
    assert argv[1:5] == ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    assert argv[5:] == ["-m", "stages", str(JOB)]


@pytest.mark.parametrize(
    ("hardware", "devices", "gpus", "zero"),
    [(Hardware(), 0, 0, 0), (Hardware(), 1, 1, 0), (Hardware(), 8, 8, 2), (Hardware(gpus=2, zero=1), 8, 2, 1)],
)
def test_auto_is_decided_from_the_devices_that_are_there(hardware: Hardware, devices: int, gpus: int, zero: int):
    found = launch.resolved(hardware, devices, TRAIN)
    assert (found.gpus, found.zero) == (gpus, zero)


@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("GPU-abc", 1)])
def test_devices_that_are_hidden_do_not_count(visible: str, count: int):
    assert launch.cuda_devices({"CUDA_VISIBLE_DEVICES": visible}) == count


def test_the_driver_is_asked_where_there_are_no_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: one'\necho 'GPU 1: two'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([]))
    assert launch.cuda_devices({}) == 2
    program.write_text("#!/bin/sh\nexit 3\n")
    assert launch.cuda_devices({}) == 0


def test_children_find_our_packages_and_nothing_of_the_working_directory():
    child = launch.environment(Hardware(gpus=0, threads=3), {"PATH": "/bin", "PYTHONPATH": "/theirs"})
    home = str(Path(launch.__file__).resolve().parents[1])
    assert child["PYTHONSAFEPATH"] == "1"
    assert child["PYTHONPATH"] == f"{home}:/theirs"
    assert child["OMP_NUM_THREADS"] == "3"
    assert child["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(Hardware(gpus=1), {})


def test_threads_are_shared_among_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "cores", lambda: 8)
    assert launch.environment(Hardware(gpus=0, processes=4), {})["OMP_NUM_THREADS"] == "2"
    assert launch.environment(Hardware(gpus=0, processes=16), {})["OMP_NUM_THREADS"] == "1"


def test_one_process_does_the_work_that_is_not_shared():
    """Two would write one artifact at once."""
    for hardware, gpus in ((Hardware(gpus=0, processes=4, zero=3), 0), (Hardware(gpus=4, zero=3), 1)):
        found = launch.resolved(hardware, 8, World())
        assert (launch.processes(found), found.gpus, found.zero) == (1, gpus, 0)
        assert not launch.is_launched(found)


def test_zero_is_left_out_by_itself_where_players_share_weights():
    ppo = {"model": "./chat", "rewards": [{"rule": "length:3"}], "prompts": [{"path": "x"}], "steps": 20}
    shared, separate = (PPO.model_validate({**ppo, "players": players}) for players in ("shared-trunk", "separate"))
    assert launch.resolved(Hardware(), 8, shared).zero == 0
    assert launch.resolved(Hardware(), 8, separate).zero == 2


@pytest.mark.parametrize("hardware", [Hardware(gpus=8, zero=3), Hardware(gpus=4, nodes=2, hosts=("gpu1", "gpu2"))])
def test_accelerate_reads_its_configuration_and_finds_nothing_to_guess(hardware: Hardware, tmp_path: Path):
    from accelerate.commands.config.config_args import load_config_from_file

    from pipeline.accelerate_config import write_accelerate_config

    write_accelerate_config(tmp_path / "accelerate.yaml", launch.resolved(hardware, 8, TRAIN))
    found = load_config_from_file(str(tmp_path / "accelerate.yaml"))
    assert found.num_processes == 8
    assert found.num_machines == (len(hardware.hosts) or 1)
    assert found.main_process_ip == (hardware.hosts[0] if hardware.hosts else None)
    assert str(found.distributed_type.value) == "MULTI_GPU"
