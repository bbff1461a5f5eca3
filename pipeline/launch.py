"""The command line and surroundings of a stage process: pure functions. What they return is shown by `run --dry-run` and compared in tests."""

import os
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from stages.contract import Hardware, Offload
from stages.core.config import StageConfig

WORKER = ("-m", "stages")
"""What Python is told to run; the job's file follows."""
NETWORK = ("NCCL_", "GLOO_")
"""Variables that say how nodes reach one another; all others stay where they are, as some are secrets."""


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


def resolved(hardware: Hardware, devices: int, config: StageConfig) -> Hardware:
    """Hardware settings of a stage, with every `auto` decided that decides how many processes start; one process where the work is not shared."""
    gpus = devices if hardware.gpus == "auto" else hardware.gpus
    if not config.is_shared:
        alone = {"gpus": min(gpus, 1), "processes": None, "zero": 0, "nodes": 1, "hosts": (), "offload": Offload(), "deepspeed": None}
        return hardware.model_copy(update=alone)
    return _with_zero(hardware.model_copy(update={"gpus": gpus, "nodes": len(hardware.hosts) or 1}), config)


def _with_zero(hardware: Hardware, config: StageConfig) -> Hardware:
    """ZeRO-2 where the recipe leaves it open and several GPUs train what can be sharded: whether it fits or not, which `pipeline.estimate.deciding` knows."""
    if hardware.zero != "auto":
        return hardware
    sharded = hardware.model_copy(update={"zero": 2})
    possible = (
        world(hardware) > 1
        and hardware.gpus
        and hardware.precision != "fp16"
        and find_spec("deepspeed")
        and config.impossible(sharded) is None
    )
    return sharded if possible else hardware.model_copy(update={"zero": 0})


def processes(hardware: Hardware) -> int:
    """Processes of a stage on each node: one a GPU, or what was asked for on a CPU."""
    return int(hardware.gpus) if hardware.gpus else hardware.processes or 1


def world(hardware: Hardware) -> int:
    """Processes of a stage on all nodes."""
    return processes(hardware) * (hardware.nodes or 1)


def is_launched(hardware: Hardware) -> bool:
    """Whether a launcher stands between the orchestrator and the stage's processes."""
    return world(hardware) > 1 or bool(hardware.zero)


def command(job: Path, hardware: Hardware, worker: Sequence[str] = WORKER, script: Path = Path("node.sh")) -> list[str]:
    """The command of one stage. Several processes, and whatever DeepSpeed shards, are started by torchrun, on CPUs and GPUs alike.

    What accelerate's own launcher adds to torchrun are variables for scripts that do not know their settings; a stage knows them from its job.
    On several nodes each runs `script`, which `node_script` writes.
    """
    if not is_launched(hardware):
        return [sys.executable, *worker, str(job)]
    if len(hardware.hosts) > 1:
        return [sys.executable, "-m", "pipeline.nodes", hardware.reach, str(script), *hardware.hosts]
    return [*_torchrun(hardware), *worker, str(job)]


def node_script(job: Path, hardware: Hardware, base: Mapping[str, str], worker: Sequence[str] = WORKER, meeting: str = "stage") -> str:
    """What each node runs, with its own name as the argument. `meeting` names the attempt, so that no node joins those of another."""
    ours = environment(hardware, {}) | {name: value for name, value in base.items() if name.startswith(NETWORK)}
    where = f"--rdzv-backend=c10d --rdzv-endpoint={hardware.hosts[0]}:{hardware.port} --rdzv-id={shlex.quote(meeting)}"
    lines = [
        "#!/bin/sh",
        f"# One node of {meeting}: the same command on each, with the node's own name or address. Ranks are given where they meet.",
        *(f"export {name}={shlex.quote(value)}" for name, value in ours.items()),
        'export PIPELINE_NODE="$1"',
        f"cd {shlex.quote(str(job.parent))} || exit 1",
        f'exec {shlex.join(_torchrun(hardware))} {where} --local-addr="$1" {shlex.join([*worker, str(job)])}',
    ]
    return "\n".join(lines) + "\n"


def _torchrun(hardware: Hardware) -> list[str]:
    nodes = [f"--nnodes={hardware.nodes}"] if len(hardware.hosts) > 1 else ["--standalone"]
    return [sys.executable, "-m", "torch.distributed.run", *nodes, f"--nproc-per-node={processes(hardware)}"]


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
