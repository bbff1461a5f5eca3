"""What a recipe's hardware asks for and cannot have is told with its line, before anything starts."""

import json

import pytest

from pipeline.errors import RecipeError
from tests.pipeline.conftest import Workshop

PPO = """\
name: chain
hardware: {zero: 3}
stages:
  chat:
    kind: ppo
    model: ./model
    rewards: [{rule: 'length:3'}]
    prompts: [{path: x.jsonl}]
    steps: 20
    players: shared-trunk
"""


def wrong(workshop: Workshop, *overrides: str) -> str:
    with pytest.raises(RecipeError) as found:
        workshop.recipe(*overrides)
    return str(found.value)


def test_players_that_cannot_be_sharded_are_refused_with_their_line(workshop: Workshop):
    workshop.write(PPO)
    assert "chain.yaml:10: stages.chat.players: found shared-trunk, and under hardware.zero: 3" in wrong(workshop)
    assert workshop.recipe("hardware.zero=0").name == workshop.recipe("hardware.zero=auto").name == "chain"


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("hardware.offload.optimizer=cpu",), "hardware.offload.optimizer: found cpu, which ZeRO does, and hardware.zero is auto"),
        (("hardware.offload.parameters=cpu", "hardware.zero=2"), "hardware.zero is 2: set hardware.zero to 3"),
        (("hardware.offload.optimizer=nvme", "hardware.zero=3"), "hardware.offload.folder: is missing"),
        (("hardware.offload={optimizer: cpu, folder: /fast}", "hardware.zero=3"), "found '/fast', which only `nvme` uses"),
        (("hardware.offload.optimiser=cpu",), "did you mean 'optimizer'?"),
    ],
)
def test_offload_needs_the_zero_stage_that_does_it(workshop: Workshop, overrides: tuple[str, ...], wanted: str):
    assert wanted in wrong(workshop, *overrides)


def test_kernels_that_cannot_be_had_are_refused(workshop: Workshop):
    assert "hardware.kernels: found liger, which needs a CUDA device" in wrong(workshop, "hardware.kernels=liger", "hardware.gpus=0")
    assert "hardware.kernels: found compile, and under hardware.zero: 3" in wrong(workshop, "hardware.kernels=compile", "hardware.zero=3")


def test_fp16_is_refused_where_deepspeed_would_scale_losses(workshop: Workshop):
    assert "hardware.precision: found fp16, which is not possible under ZeRO" in wrong(
        workshop, "hardware.precision=fp16", "hardware.zero=1"
    )
    assert workshop.recipe("hardware.precision=fp16", "hardware.zero=0").hardware.precision == "fp16"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"train_batch_size": 8}, "train_batch_size is decided by the stages' batch sizes; remove it from the file"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage is decided by hardware.zero"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param.device is decided by hardware.offload.parameters"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer is decided by the stages' optimizers"),
        ({"wall_clock_brakdown": True}, "DeepSpeed knows no key 'wall_clock_brakdown'; did you mean 'wall_clock_breakdown'?"),
        ([], "wanted an object, found list"),
    ],
)
def test_a_deepspeed_file_that_contradicts_the_recipe_is_refused_by_key(workshop: Workshop, settings: object, wanted: str):
    (workshop.root / "ds.json").write_text(json.dumps(settings))
    assert wanted in wrong(workshop, "hardware.deepspeed=ds.json", "hardware.zero=2")


def test_a_deepspeed_file_beside_the_recipe_is_handed_on_whole(workshop: Workshop):
    (workshop.root / "ds.json").write_text('{"zero_optimization": {"overlap_comm": false, "stage3_max_live_parameters": 1e7}}')
    found = workshop.recipe("hardware.deepspeed=ds.json", "hardware.zero=3").hardware.deepspeed
    assert found == str(workshop.root / "ds.json")
    assert "set hardware.zero to 1, 2 or 3" in wrong(workshop, "hardware.deepspeed=ds.json")
    assert "cannot be read as JSON" in wrong(workshop, "hardware.deepspeed=missing.json", "hardware.zero=3")
