"""What is wrong with a recipe's `hardware`, as far as the recipe and the files beside it tell; and its paths, made whole."""

import json
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import Problem, suggestion
from pipeline.nodes import Host, read_hosts
from pipeline.reading import Document, dotted, nearest_file
from stages.contract import FP16_AND_ZERO, Hardware
from stages.core.config import StageConfig

DECIDED = {
    "train_batch_size": "the stages' batch sizes",
    "train_micro_batch_size_per_gpu": "hardware.micro_batch",
    "gradient_accumulation_steps": "hardware.micro_batch",
    "managed_gradient_accumulation": "the stage",
    "gradient_clipping": "the stages' optimizer.clip",
    "optimizer": "the stages' optimizers",
    "scheduler": "the stages' optimizers",
    "fp16": "hardware.precision",
    "bf16": "hardware.precision",
    "amp": "hardware.precision",
    "torch_autocast": "hardware.precision",
    "zero_force_ds_cpu_optimizer": "hardware.offload",
    "zero_optimization.stage": "hardware.zero",
    "zero_optimization.offload_optimizer.device": "hardware.offload.optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "hardware.offload.folder",
    "zero_optimization.offload_param.device": "hardware.offload.parameters",
    "zero_optimization.offload_param.nvme_path": "hardware.offload.folder",
}
"""Settings of DeepSpeed that follow from the recipe, and from what."""
LEFT = (
    *("zero_optimization", "steps_per_print", "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients"),
    *("gradient_predivide_factor", "disable_allgather", "sparse_gradients", "dump_state", "wall_clock_breakdown", "memory_breakdown"),
    *("flops_profiler", "comms_logger", "tensorboard", "csv_monitor", "comet", "aio", "checkpoint", "data_types", "compile", "log_level"),
    *("check_overflow", "zero_allow_untested_optimizer", "gradient_allreduce_op", "disable_python_gc", "communication_options", "timers"),
)
"""The other keys at the top of DeepSpeed's JSON; it passes over any that it does not know without a word."""


def placed(hardware: Hardware, root: Path) -> Hardware:
    """The same with paths from the recipe's folder made absolute, and a file of hosts read, once `hardware_problems` found nothing wrong."""
    update: dict[str, Any] = {}
    if hardware.offload.folder is not None:
        update["offload"] = hardware.offload.model_copy(update={"folder": str((root / hardware.offload.folder).resolve())})
    if hardware.deepspeed is not None:
        update["deepspeed"] = str((root / hardware.deepspeed).resolve())
    if isinstance(hardware.hosts, str):
        hosts = read_hosts(root / hardware.hosts)
        update["hosts"] = tuple(host.name for host in hosts)
        if hardware.gpus == "auto" and hardware.processes is None and hosts[0].slots is not None:
            update["gpus"] = hosts[0].slots
    return hardware.model_copy(update=update)


def readable(document: Document, wrong: Collection[str]) -> Hardware:
    """What the recipe says of hardware less the keys that are `wrong`, so that all else that is wrong with it is told with them."""
    written = document.value.get("hardware")
    try:
        return Hardware.model_validate_json(json.dumps({key: value for key, value in written.items() if key not in wrong}), strict=True)
    except (ValidationError, AttributeError):  # it is no mapping at all
        return Hardware()


def hardware_problems(
    hardware: Hardware, stages: dict[str, StageConfig], document: Document, root: Path, wrong: Collection[str] = ()
) -> list[Problem]:
    """Everything that is wrong, each with its line, but for what hangs on keys that are `wrong` in themselves."""

    def problem(message: str, *path: str) -> Problem:
        return Problem(document.place(path), dotted(path), message)

    found = [problem(message, "hardware", *path) for path, message in _wrong(hardware, root)]
    for name, config in stages.items():
        if config.is_shared and (told := config.impossible(hardware)) is not None:
            found.append(problem(told[1], "stages", name, *told[0].split(".")))
    hanging = tuple(f"hardware.{key}" for key in wrong)
    return [one for one in found if not any(key in f"{one.path} {one.message}" for key in hanging)]


def _wrong(hardware: Hardware, root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    yield from _wrong_hosts(hardware, root)
    yield from _wrong_offload(hardware)
    if hardware.precision == "fp16" and hardware.zero not in (0, "auto"):
        yield ("precision",), FP16_AND_ZERO
    if hardware.kernels == "compile" and hardware.zero == 3:
        yield (
            ("kernels",),
            "found compile, and under hardware.zero: 3 every module waits for its weights: use plain or liger, or a lower ZeRO stage",
        )
    if hardware.kernels == "liger" and (lacks := _lacks_liger(hardware)):
        yield ("kernels",), f"found liger, which needs {lacks}; plain does the same, slower"
    if hardware.deepspeed is not None:
        for message in deepspeed_complaints(root / hardware.deepspeed):
            yield ("deepspeed",), message
        if hardware.zero in (0, "auto"):
            yield ("deepspeed",), f"says how DeepSpeed shards, and hardware.zero is {hardware.zero}: set hardware.zero to 1, 2 or 3"


def _lacks_liger(hardware: Hardware) -> str | None:
    if hardware.gpus == 0:
        return "a CUDA device, and hardware.gpus is 0"
    return None if find_spec("liger_kernel") else "the package liger-kernel, which is not installed (pip install liger-kernel)"


def _wrong_offload(hardware: Hardware) -> Iterator[tuple[tuple[str, ...], str]]:
    offload, zero = hardware.offload, 0 if hardware.zero == "auto" else hardware.zero
    for name, least in (("optimizer", 1), ("parameters", 3)):
        where = getattr(offload, name)
        needs = 3 if where == "nvme" else least
        if where is not None and zero < needs:
            wanted = "3" if needs == 3 else "1, 2 or 3"
            yield ("offload", name), f"found {where}, which ZeRO does, and hardware.zero is {hardware.zero}: set hardware.zero to {wanted}"
    on_disk = "nvme" in (offload.optimizer, offload.parameters)
    if on_disk and offload.folder is None:
        yield ("offload", "folder"), "is missing; `nvme` wants a folder on a fast local disk"
    if not on_disk and offload.folder is not None:
        yield (
            ("offload", "folder"),
            f"found '{offload.folder}', which only `nvme` uses: set offload.optimizer or offload.parameters to nvme",
        )


def _wrong_hosts(hardware: Hardware, root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    hosts = [Host(name) for name in hardware.hosts] if not isinstance(hardware.hosts, str) else []
    if isinstance(hardware.hosts, str):
        try:
            hosts = read_hosts(root / hardware.hosts)
        except OSError as error:
            yield (
                ("hosts",),
                unreadable(root / hardware.hosts, error, "a file of hosts, one a line; names themselves are a list: [gpu1, gpu2]"),
            )
        except ValueError as error:
            yield ("hosts",), f"{error}"
    names = [host.name for host in hosts]
    if len(set(names)) < len(names):
        yield ("hosts",), f"'{next(name for name in names if names.count(name) > 1)}' comes twice"
    if hosts and hardware.nodes not in (None, len(hosts)):
        yield ("nodes",), f"found {hardware.nodes}, and hardware.hosts names {len(hosts)}"
    given = hardware.gpus if hardware.gpus != "auto" and hardware.gpus else hardware.processes
    slots = {host.slots for host in hosts} - {None}
    if len(slots) > 1 or (slots and given and slots != {given}):
        wanted = f"{given} processes on each node" if given else "the same on each line"
        yield ("hosts",), f"found slots={', '.join(map(str, sorted(slots, key=str)))}, wanted {wanted}"


def deepspeed_complaints(file: Path) -> Iterator[str]:
    """Whatever of a DeepSpeed JSON file cannot be used, a sentence each."""
    try:
        settings = json.loads(file.read_bytes())
    except OSError as error:
        yield unreadable(file, error, "a JSON file of DeepSpeed's settings")
        return
    except ValueError as error:
        yield f"{file} cannot be read as JSON: {error}"
        return
    if not isinstance(settings, dict):
        yield f"{file}: wanted an object, found {type(settings).__name__}"
        return
    for key in _keys(settings):
        if key in DECIDED:
            yield f"{file}: {key} is decided by {DECIDED[key]}; remove it from the file"
        elif "." not in key and key not in LEFT:
            yield f"{file}: DeepSpeed knows no key '{key}'{suggestion(key, LEFT)}"


def unreadable(file: Path, error: OSError, wanted: str) -> str:
    """That a file that the recipe names cannot be read, with the nearest name where it is not there."""
    return f"{file} cannot be read: {error.strerror or error}{'' if file.exists() else nearest_file(file)}; wanted {wanted}"


def _keys(settings: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{above}{key}"
        if isinstance(value, dict) and f"{above}{key}" not in DECIDED:
            yield from _keys(value, f"{above}{key}.")
