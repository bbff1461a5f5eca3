"""The command line and surroundings of a stage process: pure functions. What they return is shown by `run --dry-run` and compared in tests."""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.contract import Hardware

WORKER = ("-m", "stages")
"""What Python is told to run; the job's file follows."""


def cuda_devices(environment: Mapping[str, str]) -> int:
    """CUDA devices that a child of this process would see; asks the driver's files, not torch."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        listed = [device.strip() for device in visible.split(",")]
        return len([device for device in listed if device]) if "-1" not in listed else 0
    devices = [entry for entry in Path("/dev").glob("nvidia*") if entry.name.removeprefix("nvidia").isdecimal()]
    if devices or not shutil.which("nvidia-smi"):
        return len(devices)
    try:  # under WSL there are no device files
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolved(hardware: Hardware, devices: int) -> Hardware:
    """Hardware settings with every `auto` decided that decides how many processes start."""
    gpus = devices if hardware.gpus == "auto" else hardware.gpus
    several = processes(hardware.model_copy(update={"gpus": gpus})) > 1
    zero = hardware.zero
    if zero == "auto":
        zero = 2 if several and gpus and find_spec("deepspeed") else 0
    return hardware.model_copy(update={"gpus": gpus, "zero": zero})


def processes(hardware: Hardware) -> int:
    """Processes of a stage: one a GPU, or what was asked for on a CPU."""
    return int(hardware.gpus) if hardware.gpus else hardware.processes or 1


def accelerate_config(hardware: Hardware) -> dict[str, Any] | None:
    """What `accelerate launch` reads; None where no launcher is needed."""
    if processes(hardware) == 1 and not hardware.zero:
        return None
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "DEEPSPEED" if hardware.zero else "MULTI_GPU" if hardware.gpus else "MULTI_CPU",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_process_port": 0,
        "main_training_function": "main",
        "mixed_precision": "bf16" if hardware.precision == "bf16" else "no",
        "num_machines": 1,
        "num_processes": processes(hardware),
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": not hardware.gpus,
    }
    if hardware.zero:
        config["deepspeed_config"] = {
            "zero_stage": hardware.zero,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero3_init_flag": False,
            "zero3_save_16bit_model": False,
        }
    return config


def command(job: Path, hardware: Hardware, config: Path, worker: Sequence[str] = WORKER) -> list[str]:
    """The command of one stage; `config` is where `accelerate_config` was written."""
    count = processes(hardware)
    if accelerate_config(hardware) is None:
        return [sys.executable, *worker, str(job)]
    if not hardware.gpus and not hardware.zero:
        # On CPUs accelerate's own launcher asks for MPI; torchrun starts the same processes over gloo.
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *worker, str(job)]
    # Without an explicit file accelerate reads one from the user's home, and the run is no longer ours.
    return [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={config}", *worker, str(job)]


def environment(hardware: Hardware, base: Mapping[str, str]) -> dict[str, str]:
    """Surroundings of the stage process: this one's, and what makes it find our packages and not files of the working directory."""
    child = dict(base)
    child["PYTHONSAFEPATH"] = "1"
    child["PYTHONUNBUFFERED"] = "1"
    child["OMP_NUM_THREADS"] = str(hardware.threads or max(1, cores() // processes(hardware)))
    if not hardware.gpus:
        child["CUDA_VISIBLE_DEVICES"] = ""
        child["ACCELERATE_USE_CPU"] = "true"
    home = str(Path(__file__).resolve().parent.parent)
    if home not in site.getsitepackages():
        child["PYTHONPATH"] = os.pathsep.join(part for part in (home, base.get("PYTHONPATH", "")) if part)
    return child
