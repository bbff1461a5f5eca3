"""Commands and surroundings of stage processes are values: compared here, started elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from pipeline import launch
from stages.contract import Hardware

JOB, CONFIG = Path("/runs/a/base-1/job.json"), Path("/runs/a/base-1/attempts/1/accelerate.json")


def test_one_process_needs_no_launcher():
    for hardware in (Hardware(gpus=0), Hardware(gpus=1, zero=0)):
        assert launch.command(JOB, launch.resolved(hardware, 8), CONFIG) == [sys.executable, "-m", "stages", str(JOB)]
        assert launch.accelerate_config(launch.resolved(hardware, 8)) is None


def test_several_gpus_start_through_accelerate_with_our_file():
    hardware = launch.resolved(Hardware(gpus="auto", zero=0), 4)
    assert launch.command(JOB, hardware, CONFIG)[1:] == [
        "-m",
        "accelerate.commands.launch",
        f"--config_file={CONFIG}",
        "-m",
        "stages",
        str(JOB),
    ]
    config = launch.accelerate_config(hardware)
    assert config is not None
    assert config["num_processes"] == 4
    assert config["distributed_type"] == "MULTI_GPU"
    assert "deepspeed_config" not in config


def test_zero_starts_through_deepspeed():
    config = launch.accelerate_config(launch.resolved(Hardware(zero=3, precision="bf16"), 2))
    assert config is not None
    assert config["distributed_type"] == "DEEPSPEED"
    assert config["deepspeed_config"]["zero_stage"] == 3
    assert config["mixed_precision"] == "bf16"


def test_several_processes_on_a_cpu_start_through_torchrun():
    hardware = launch.resolved(Hardware(gpus=0, processes=2), 0)
    argv = launch.command(JOB, hardware, CONFIG)
    assert argv[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert argv[5:] == ["-m", "stages", str(JOB)]


@pytest.mark.slow
def test_our_accelerate_file_is_one_that_accelerate_reads(tmp_path: Path):
    import json

    from accelerate.commands.config.config_args import load_config_from_file

    for hardware in (Hardware(gpus=2, zero=0), Hardware(gpus=2, zero=2)):
        file = tmp_path / "accelerate.json"
        file.write_text(json.dumps(launch.accelerate_config(hardware)))
        assert load_config_from_file(str(file)).num_processes == 2


@pytest.mark.parametrize(
    ("hardware", "devices", "gpus", "zero"),
    [(Hardware(), 0, 0, 0), (Hardware(), 1, 1, 0), (Hardware(), 8, 8, 2), (Hardware(gpus=2, zero=1), 8, 2, 1)],
)
def test_auto_is_decided_from_the_devices_that_are_there(hardware: Hardware, devices: int, gpus: int, zero: int):
    found = launch.resolved(hardware, devices)
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
