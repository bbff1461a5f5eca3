"""What a plan is made for: devices, their memory and speed, their price, and the assumptions that stand where nothing was measured."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.estimate.gpus import GPU, GPUS, gpu_named, size_of
from pipeline.estimate.quantities import size

MARGIN = 0.08
"""Share of a device's memory that a plan leaves free: for the CUDA context, NCCL, kernels' own workspace and what the caching allocator cannot use again.
Not measured on a GPU by us."""
MFU = 0.4
"""Model FLOPs utilisation where none is given or measured. Published ones lie between 0.3 and 0.55 (docs/plan.md)."""


@dataclass(frozen=True)
class Machine:
    """Devices of one kind, equally many on each node."""

    gpus: int
    """On each node; 0 is a CPU."""
    memory: int
    """Bytes of one device."""
    nodes: int = 1
    gpu: GPU | None = None
    price: float | None = None
    """Of one device for an hour."""
    mfu: float = MFU
    bf16: bool = True
    """Whether devices that the table does not know multiply bf16 fast."""
    fp16: bool = True
    """Whether they multiply fp16 fast; a P100 does neither."""
    processes: int = 1
    """That share the CPU of each node, with `memory` for each of them; one a device on GPUs."""

    @property
    def usable(self) -> float:
        """Bytes of a device that a plan may use."""
        return self.memory * (1 - MARGIN) if self.gpus else float(self.memory)

    def arithmetic(self, precision: str, zero: int) -> int:
        """Bytes of a number in forward passes, as `stages.core.models.choose_precision` decides: under `auto` 16 bits where the device does bf16 fast, or
        fp16 alone, which is not possible under ZeRO."""
        if precision != "auto" or not self.gpus:
            return 2 if precision in ("bf16", "fp16") else 4
        bf16, fp16 = (self.gpu.bf16 is not None, True) if self.gpu else (self.bf16, self.fp16)
        return 2 if bf16 or (fp16 and not zero) else 4

    @property
    def label(self) -> str:
        if not self.gpus:
            where = f" on each of {self.nodes} nodes" if self.nodes > 1 else ""
            share = f"{size(self.memory)} of its memory{' each' if self.processes > 1 or where else ''}"
            return f"CPU, {self.processes} process{'es' if self.processes > 1 else ''}{where}, {share}"
        where = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.gpus * self.nodes} x {self.gpu.name if self.gpu else 'GPU'} of {self.memory / 1e9:.0f} GB{where}"


def machine(
    gpus: int,
    memory: str | None,
    gpu: str | None,
    *,
    nodes: int = 1,
    price: float | None = None,
    mfu: float | None = None,
    processes: int = 1,
) -> Machine:
    """From the words of a command line; a CPU whose memory they leave out is this machine's, shared by `processes`. Raises RecipeError where they do
    not say how much memory a GPU has, or contradict one another."""
    device = gpu_named(gpu) if gpu is not None else None
    if device is not None and not gpus:
        raise RecipeError(f"--gpu: found '{gpu}', and --gpus 0 is a CPU: leave it out, or say how many there are")
    if mfu is not None and device is None:
        raise RecipeError("--mfu: is a share of the peak of a device that --gpu names, and it names none")
    if memory is None and device is None and gpus:
        raise RecipeError(f"--gpus: how much memory has each? Say --gpu-memory 80GB, or --gpu and one of {', '.join(GPUS)}")
    each = size_of(memory) if memory is not None else device.memory if device is not None else main_memory() // processes
    return Machine(gpus, each, nodes, device, price, MFU if mfu is None else mfu, processes=1 if gpus else processes)


def main_memory() -> int:
    """Bytes of this machine's main memory, or as many as a container may have of them."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such limit: there is no file, or it says `max`
        return whole
