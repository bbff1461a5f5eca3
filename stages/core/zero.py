"""DeepSpeed ZeRO: the configuration of an engine, and the way back from shards to a plain model.

Stage 1 shards the optimizer's state over the processes, stage 2 the gradients too, stage 3 the weights too (Rajbhandari et al. 2020). Weights
are stored in fp32 under every stage and multiplied in the precision of the recipe (`torch_autocast`), as without DeepSpeed: what a recipe
computes does not depend on how it is sharded.
"""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.contract import Hardware, StageError
from stages.core.files import write_json

BUCKET = 50_000_000
"""Most elements that are reduced or gathered in one message, and so the size of a communication buffer."""

QUIET = 2**31
"""Steps between DeepSpeed's own lines: none."""
TOLERANCE = 1e-5
"""Largest allowed difference of outputs between a model in shards and the same brought together, relative to the largest above one."""


def zero_stage(hardware: Hardware) -> int:
    """The ZeRO stage of this process; `auto`, which a launcher decides, is 0 for a stage that is started by hand."""
    return 0 if hardware.zero == "auto" else hardware.zero


def engine_config(
    hardware: Hardware, *, clip: float, dtype: torch.dtype, micro_batch: int = 1, accumulation: int = 1, width: int | None = None
) -> dict[str, Any]:
    """What `deepspeed.initialize` is told, for a model of that hidden size; Trainer, which is told before it has the model, adds it then."""
    if hardware.gpus == 0:
        _without_compiling()
    _without_second_copy()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "steps_per_print": QUIET,
        "zero_optimization": {
            "stage": zero_stage(hardware),
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "stage3_prefetch_bucket_size": BUCKET,
        },
    }
    if dtype != torch.float32:
        config["torch_autocast"] = {"enabled": True, "dtype": str(dtype).removeprefix("torch.")}
    own = json.loads(Path(hardware.deepspeed).read_bytes()) if hardware.deepspeed else {}
    config = _merged(config | offloading(hardware, config["zero_optimization"]), own)
    if width is not None:
        keep_vectors(config["zero_optimization"], width)
    return config


def offloading(hardware: Hardware, zero: dict[str, Any]) -> dict[str, Any]:
    """What keeps optimizer state or weights outside the devices' memory. The optimizer stays torch's own AdamW, in the node's memory too: the same
    numbers as without, and no kernel to compile. Raises StageError where DeepSpeed cannot use the disk."""
    offload = hardware.offload
    devices = {"offload_optimizer": offload.optimizer, "offload_param": offload.parameters}
    if "nvme" in devices.values():
        _check_disk(offload.folder)
    parts: dict[str, dict[str, Any]] = {
        name: {"device": device, "pin_memory": hardware.gpus != 0} for name, device in devices.items() if device
    }
    for part in parts.values():
        part |= {"nvme_path": offload.folder} if part["device"] == "nvme" else {}
    return {"zero_optimization": zero | parts} | ({"zero_force_ds_cpu_optimizer": False} if offload.optimizer else {})


def _check_disk(folder: str | None) -> None:
    """DeepSpeed would make a folder that is not there, on whatever disk that is."""
    if folder is None or not Path(folder).is_dir():
        raise StageError(f"hardware.offload.folder: found {folder}, and there is no such folder on {socket.gethostname()}")
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise StageError("hardware.offload: nvme needs libaio with its headers (libaio-dev) and a compiler; use cpu instead")


def _merged(config: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The user's settings beside ours; that they do not contradict was checked with the recipe."""
    found = dict(config)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def record(folder: Path, config: Mapping[str, Any], player: str = "") -> None:
    """Leave the whole configuration of an engine beside the job, for people."""
    # Never, which accelerate says as infinity: JSON has no word for it.
    finite = {**config, "steps_per_print": min(config["steps_per_print"], 2**31)}
    write_json(folder / f"deepspeed{'-' if player else ''}{player}.json", finite)


def settle(config: dict[str, Any], model: Any, folder: Path | None) -> None:
    """What Trainer could not be told before it had the model; and the whole, beside the job, where a folder is given."""
    keep_vectors(config["zero_optimization"], model.config.get_text_config().hidden_size)
    config["steps_per_print"] = QUIET  # accelerate has put an infinity there, which JSON has no word for
    if folder is not None:
        record(folder, config)


def keep_vectors(zero: dict[str, Any], width: int) -> None:
    """Vectors of about the model's width stay whole under ZeRO-3, matrices are sharded; unless the user's own settings say otherwise."""
    zero.setdefault("stage3_param_persistence_threshold", 10 * width)


def is_sharded(module: nn.Module) -> bool:
    """Whether weights lie in shards (ZeRO-3): each parameter is then empty outside a gather, and a forward pass needs every process."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def shard(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Under ZeRO-3, spread a model's weights over the processes, one after the other; under lower stages nothing happens. Every process must call it.

    Beside what it loaded a process then holds its shards and one weight, and its device shards and one weight, where DeepSpeed, left to itself, would
    first put the whole model onto each device. Weights are those of the first process: the others' may be on `meta`, where they take no room.
    """
    if config["zero_optimization"]["stage"] < 3:
        return
    from deepspeed.runtime.zero import Init

    convert: Callable[..., None] | None = None
    taken: dict[nn.Parameter, nn.Parameter] = {}
    for inner in model.modules():
        for name, parameter in list(inner._parameters.items()):
            if parameter is None or hasattr(parameter, "ds_id"):
                continue
            if parameter not in taken:  # tied weights are one
                real = torch.empty_like(parameter, device="cpu") if parameter.is_meta else None
                taken[parameter] = parameter if real is None else nn.Parameter(real, requires_grad=parameter.requires_grad)
            inner._parameters[name] = weight = taken[parameter]
            if convert is None:
                Init(module=nn.ParameterList([weight]), config_dict_or_path=dict(config))
                convert = weight.convert_to_zero_parameters  # type: ignore[attr-defined]  # of DeepSpeed's
            elif not hasattr(weight, "ds_id"):
                convert(param_list=[weight])
    for inner in model.modules():
        for name, held in inner._buffers.items():
            inner._buffers[name] = None if held is None else held.to(_device())


def _device() -> torch.device:
    """Where DeepSpeed computes in this process."""
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().current_device_name())


def shards(parameter: nn.Parameter) -> torch.Tensor:
    """This process's part of a parameter under ZeRO-3; otherwise all of it."""
    part: torch.Tensor = getattr(parameter, "ds_tensor", parameter)
    return part


def put_shards(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Take over, by name, what `shards` gave. Every process must call it."""
    with torch.no_grad():
        own: dict[str, Any] = dict(module.named_parameters())
        for name in [name for name in own if name in weights]:
            parameter = own[name]
            shards(parameter).copy_(weights[name])
            if getattr(parameter, "ds_persist", False):  # small ones are kept whole on every process as well
                parameter.partition()
                parameter.all_gather()


def _without_compiling() -> None:
    """Leave out the one operation that DeepSpeed compiles for a CPU: a kill while it does leaves a lock file that all later starts wait for."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class DeviceName(str):
    """A device's name that equals the device."""

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    __hash__ = str.__hash__


def _without_second_copy() -> None:
    """Under ZeRO-3 DeepSpeed takes fp32 weights as their own master weights where they lie on its device, which it compares by name; torch says that a
    device and its name differ, and every weight would be held twice."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    usual = accelerator.current_device_name
    if not isinstance(usual(), DeviceName):
        accelerator.current_device_name = lambda: DeviceName(usual())


def size_of_state(model: Any, *, sharded: bool) -> int:
    """Bytes of a checkpoint: fp32 weights, and two moments for each that trains; DeepSpeed adds a master copy of those."""
    sizes = [(int(getattr(p, "ds_numel", p.numel())), p.requires_grad) for p in model.parameters()]
    moments = 12 if sharded else 8
    return sum(4 * size + (moments * size if trains else 0) for size, trains in sizes)


def make_whole(model: Any, probe: Callable[[], torch.Tensor], *, keep: bool) -> None:
    """End of training: a sharded model becomes a plain one again, in CPU memory, on the processes that `keep` it; on the others it has shapes alone.

    One parameter at a time is gathered, so no process ever holds more than it keeps. Every process must call it. Nothing happens to a model
    that is not sharded. The engine is of no use afterwards.

    Args:
        probe: computes some output of the model; it is asked before and after.
        keep: whether this process keeps the model.

    Raises:
        StageError: the plain model gives other outputs than the sharded one.
    """
    if not is_sharded(model):
        return
    model.eval()
    before = _asked(model, probe)
    _gather(model, keep)
    if keep:
        difference = float((_asked(model, probe) - before).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(before.abs().max())):
            raise StageError(f"brought together, the shards give another model: outputs differ by {difference:.3g}")


@torch.no_grad()
def _asked(model: Any, probe: Callable[[], torch.Tensor]) -> torch.Tensor:
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        return probe().float().cpu()


def _gather(model: nn.Module, keep: bool) -> None:
    from deepspeed.runtime.zero import GatheredParameters
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # transformers would shard whatever is loaded from now on, and wait for every process
    plain: dict[int, nn.Parameter] = {}
    for inner in model.modules():
        # DeepSpeed's own mapping and hooks gather what is touched; a plain model has neither.
        held = dict(inner._parameters.items())
        for name, parameter in held.items():
            if parameter is not None and id(parameter) not in plain:
                with GatheredParameters([parameter]):
                    data = parameter.detach().cpu().clone() if keep else torch.empty_like(parameter, device="meta")
                plain[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
            held[name] = None if parameter is None else plain[id(parameter)]
        inner._parameters = held
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(inner, hooks).clear()
        for name, buffer in inner._buffers.items():
            inner._buffers[name] = None if buffer is None else buffer.cpu()
