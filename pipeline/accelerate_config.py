"""The configuration by which accelerate's own launcher starts the same processes on GPUs as torchrun does here: for people who start a stage by hand.

There is none for several processes on a CPU, which accelerate starts by MPI alone.
"""

from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.launch import world
from stages.contract import Hardware

HEAD = """\
# Starts the stage by hand, as torchrun does here. What DeepSpeed is told stands in deepspeed*.json.
#   accelerate launch --config_file accelerate.yaml -m stages job.json
"""


def accelerate_config(hardware: Hardware) -> dict[str, Any]:
    """All that accelerate would otherwise guess or take from a file in the user's home."""
    where = {"main_process_ip": hardware.hosts[0], "main_process_port": hardware.port} if hardware.hosts else {}
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",  # of DeepSpeed the stage knows from its job
        "use_cpu": False,
        "gpu_ids": "all",
        "num_machines": hardware.nodes or 1,
        "num_processes": world(hardware),
        "machine_rank": 0,
        **where,
        "rdzv_backend": "c10d" if hardware.hosts else "static",
        "same_network": True,
        "mixed_precision": "no",  # of precision too
        "main_training_function": "main",
        "debug": False,
        "downcast_bf16": False,
        "enable_cpu_affinity": False,
    }


def write_accelerate_config(file: Path, hardware: Hardware) -> None:
    from ruamel.yaml import YAML

    text, yaml = StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(accelerate_config(hardware), text)
    file.write_text(HEAD + text.getvalue(), encoding="utf-8")
