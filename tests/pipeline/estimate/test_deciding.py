"""Where the recipe leaves ZeRO open a run takes what the plan chooses for the GPUs that are here, and says so in a line."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.estimate import deciding
from pipeline.estimate.command import estimate
from pipeline.estimate.machine import Machine
from stages.contract import Hardware
from tests.pipeline.estimate.test_choosing import base, ppo, recipe


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Puts GPUs into this machine, and a driver's program that tells what each has."""
    monkeypatch.setattr(deciding, "main_memory", lambda: 2 * 10**12)

    def put(count: int, memory: int | str, capability: str = "9.0") -> Machine:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + f"echo '{memory}, {capability}'\n" * count)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(deciding, "cuda_devices", lambda environment: count)
        return Machine(count, int(memory) << 20 if str(memory).isdecimal() else 0, bf16=float(capability) >= 8, fp16=float(capability) >= 7)

    return put


def decided(plan: Any, stage: str = "base") -> tuple[Hardware, str]:
    return deciding.decided(plan, plan.step(stage))


@pytest.mark.parametrize("memory", [200_000, 81_559, 45_000, 24_000])
def test_a_run_takes_what_the_plan_chooses_for_the_same_machine(tmp_path: Path, gpus, memory: int):
    plan, machine = recipe(tmp_path, {"base": base()}), gpus(8, memory)
    found, told = decided(plan)
    (planned,) = estimate(plan, machine)
    assert planned.chosen is not None
    setting = planned.chosen.setting
    assert (found.zero, found.gradient_checkpointing) == (setting.zero, setting.checkpointing)
    assert found.micro_batch == (setting.rows or "auto")
    assert (found.offload.optimizer or "device", found.offload.parameters or "device") == (setting.optimizer, setting.parameters)
    assert told.startswith(f"{planned.chosen.label}: ")
    assert "\n" not in told


def test_small_models_are_not_sharded_and_what_the_recipe_says_is_kept(tmp_path: Path, gpus):
    gpus(8, 81_559)
    small = {"base": base(model={"layers": 2}), "policy": ppo()}
    assert decided(recipe(tmp_path, small))[0].zero == 0
    asked = {"zero": 2, "micro_batch": 3}
    found, told = decided(recipe(tmp_path, small, hardware=asked))
    assert (found.zero, found.micro_batch, found.gradient_checkpointing, told) == (2, 3, False, "")
    assert decided(recipe(tmp_path, small, hardware={"gpus": 0, "processes": 2})) == (
        Hardware(gpus=0, processes=2, zero=0, nodes=1),
        "",
    )


def test_no_more_gpus_are_taken_than_can_share_a_step(tmp_path: Path, gpus):
    gpus(8, 81_559)
    few = {"base": base(model={"layers": 2}, batch_tokens=2048 * 12)}
    found, told = decided(recipe(tmp_path, few))
    assert found.gpus == 6
    assert told.startswith("6 of 8 GPUs, since a step cannot be shared by more evenly; ")
    assert decided(recipe(tmp_path, few, hardware={"gpus": 8}))[0].gpus == 8, "the stage refuses it with what can be changed"
    gpus(8, "[N/A]")
    found, told = decided(recipe(tmp_path, few))
    assert (found.gpus, found.zero) == (6, 2)
    assert told.startswith("6 of 8 GPUs, since a step cannot be shared by more evenly; ZeRO-2 without a plan: ")
    alone = {"base": base(model={"layers": 2}, batch_tokens=2048)}
    assert (decided(recipe(tmp_path, alone))[0].gpus, decided(recipe(tmp_path, alone))[0].zero) == (1, 0)


def test_what_this_machine_lacks_is_not_chosen(tmp_path: Path, gpus, monkeypatch: pytest.MonkeyPatch):
    gpus(8, 24_000)
    plan = recipe(tmp_path, {"base": base()})
    assert decided(plan)[0].zero
    monkeypatch.setattr(deciding, "main_memory", lambda: 10**10)
    assert re.search(
        r", though it may not fit: ZeRO-\d.* does on the GPUs, and needs [\d.]+ GB of main memory, of which there are 10.0",
        decided(plan)[1],
    )
    monkeypatch.setattr(deciding, "find_spec", lambda name: None)
    assert re.search(r", though it may not fit: ZeRO-\d.* does, and DeepSpeed is not installed", decided(plan)[1])


def test_a_stage_that_goes_on_keeps_the_level_of_its_checkpoint(tmp_path: Path, gpus):
    gpus(8, 81_559)
    plan = recipe(tmp_path, {"base": base(model={"layers": 2})})
    seal = plan.step("base").folder.path / "checkpoints" / "step-000004" / "COMPLETE"
    seal.parent.mkdir(parents=True)
    seal.write_text(json.dumps({"processes": 8, "zero": 3, "files": {}}))
    assert decided(plan)[0].zero == 3
    gpus(8, 2_000)
    found, told = decided(plan)
    assert (found.zero, told.partition(":")[0]) == (3, "ZeRO-3, though it may not fit")
    seal.write_text(json.dumps({"processes": 8, "zero": 0, "files": {}}))
    gpus(8, "[N/A]")
    found, told = decided(plan)
    assert (found.zero, told.partition(":")[0]) == (0, "ZeRO-0 without a plan")
    gpus(8, 81_559)
    seal.write_text("torn")
    assert decided(plan)[0].zero == 0


def test_where_sizes_are_not_known_it_is_as_without_a_plan_and_told(tmp_path: Path, gpus, monkeypatch: pytest.MonkeyPatch):
    plan = recipe(tmp_path, {"base": base()})
    gpus(8, "[N/A]")
    assert decided(plan) == (
        Hardware(gpus=8, nodes=1, zero=2),
        "ZeRO-2 without a plan: nvidia-smi does not tell how much memory the GPUs have",
    )
    monkeypatch.setattr(deciding.shutil, "which", lambda name: None)
    assert decided(plan)[1] == "ZeRO-2 without a plan: there is no nvidia-smi to tell how much memory the GPUs have"


def test_a_v100_computes_in_fp16_where_nothing_is_sharded(tmp_path: Path, gpus):
    gpus(4, 32_000, "7.0")
    assert deciding._machine(Hardware(gpus=4)).arithmetic("auto", 0) == 2
    assert deciding._machine(Hardware(gpus=4)).arithmetic("auto", 2) == 4


def test_a_gpu_without_tensor_cores_is_planned_in_what_it_computes_in(tmp_path: Path, gpus):
    """A P100 has neither bf16 nor fast fp16, and a run computes in fp32 there (`stages.core.models`)."""
    from stages.core.models import _precision_of

    for capability in ("6.0", "6.1", "7.0", "7.5", "8.0", "9.0"):
        gpus(4, 16_000, capability)
        for zero in range(4):
            size = _precision_of("it", int(capability[0]), sharded=zero > 0).dtype.itemsize
            assert deciding._machine(Hardware(gpus=4)).arithmetic("auto", zero) == size
