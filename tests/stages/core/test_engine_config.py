"""What DeepSpeed is told is what it reads: its own classes take the configuration, and know where things lie."""

import pytest
import torch

from stages.contract import Hardware, Offload, StageError
from stages.core import zero


def read(hardware: Hardware):
    """DeepSpeed's own reading of the part about ZeRO."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return DeepSpeedZeroConfig(**zero.engine_config(hardware, clip=1.0, dtype=torch.float32, width=64)["zero_optimization"])


def test_deepspeed_reads_what_lies_on_disk_and_where(tmp_path, monkeypatch):
    monkeypatch.setattr(zero, "_check_disk", lambda folder: None)
    on_disk = Hardware(gpus=0, zero=3, offload=Offload(optimizer="nvme", parameters="nvme", folder=str(tmp_path)))
    found = read(on_disk)
    assert found.stage == 3
    for part in (found.offload_optimizer, found.offload_param):
        assert (str(part.device), str(part.nvme_path)) == ("nvme", str(tmp_path))
    mixed = read(Hardware(gpus=0, zero=3, offload=Offload(optimizer="cpu", parameters="nvme", folder=str(tmp_path))))
    assert (str(mixed.offload_optimizer.device), mixed.offload_optimizer.nvme_path) == ("cpu", None)
    assert (str(mixed.offload_param.device), str(mixed.offload_param.nvme_path)) == ("nvme", str(tmp_path))


def test_a_disk_that_deepspeed_cannot_use_is_refused_with_what_it_lacks(monkeypatch, tmp_path):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose=False: False)
    with pytest.raises(StageError, match=r"nvme needs libaio with its headers .* use cpu instead"):
        read(Hardware(gpus=0, zero=3, offload=Offload(parameters="nvme", folder=str(tmp_path))))
    with pytest.raises(StageError, match=r"hardware\.offload\.folder: found .*/none, and there is no such folder on "):
        read(Hardware(gpus=0, zero=3, offload=Offload(parameters="nvme", folder=str(tmp_path / "none"))))
