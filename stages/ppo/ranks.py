"""The processes that share a run, behind one small seam: sums over all of them. Alone, every sum is the identity and costs nothing.

Every process answers its share of the prompts; statistics and gradients are sums over processes, divided by global counts, so that results do not
depend on how many there are. Without ZeRO every process holds whole models, and gradients are summed here, after the last backward pass of a
window: no wrapper stands around the models, so none can be bypassed.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.contract import StageError


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    size: int = 1
    lockstep: bool = False
    """Whether weights or gradients lie in shards, so that a pass through a model is a meeting of all processes."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, sums: Tensor) -> Tensor:
        """The sum of all processes' tensors; every process must call it, in the same order."""
        if self.size == 1:
            return sums
        total = sums.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it is true on one process: a signal reaches some of them earlier than others, and all must stop at the same step."""
        return bool(self.sum(torch.tensor([float(flag)])) > 0)

    def most(self, own: int) -> int:
        """How many passes this process makes that has `own` to make: in lockstep, as many as the one with the most."""
        if self.size == 1 or not self.lockstep:
            return own
        most = torch.tensor(own)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over processes, in one message. A process without a row in the window counts as zero."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        dist.all_reduce(flat)
        for parameter, gradient in zip(trained, flat.split([p.numel() for p in trained]), strict=True):  # type: ignore[no-untyped-call]
            parameter.grad = gradient.view_as(parameter).clone()

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def join(zero: int = 0) -> Ranks:
    """This process among those that the launcher started. Raises StageError if `zero`, a ZeRO stage, asks for a launcher and there was none."""
    if not dist.is_initialized() and dist.is_torchelastic_launched():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # Gradients lie on the device, statistics on the CPU: each needs a backend of its own.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size(), lockstep=zero > 1)
    if zero:
        raise StageError(
            "hardware.zero needs a launcher, also for one process: python -m torch.distributed.run --standalone -m stages job.json"
        )
    return Ranks()
