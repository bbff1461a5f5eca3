"""What a recipe's hardware asks for and cannot have is told with its line, before anything starts."""

import json

import pytest

from pipeline.errors import RecipeError
from pipeline.here import lacks_here
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
    assert "missing.json cannot be read" in wrong(workshop, "hardware.deepspeed=missing.json", "hardware.zero=3")


@pytest.mark.parametrize(
    ("key", "wanted"), [("deepspeed", "a JSON file of DeepSpeed's settings"), ("hosts", "a file of hosts, one a line")]
)
def test_a_file_that_is_not_there_is_told_with_the_nearest_one(workshop: Workshop, key: str, wanted: str):
    (workshop.root / "ours.json").write_text("{}")
    told = wrong(workshop, f"hardware.{key}=our.json", "hardware.zero=2")
    assert f"our.json cannot be read: No such file or directory; did you mean '{workshop.root}/ours.json'?; wanted {wanted}" in told
    assert "Errno" not in told
    assert "there is no folder" in wrong(workshop, f"hardware.{key}=none/ours.json", "hardware.zero=2")


def test_everything_that_is_wrong_with_the_hardware_is_told_at_once(workshop: Workshop):
    """A key that is wrong in itself hides no other; what hangs on it waits for it."""
    broken = ("hardware.micro_batch=0", "hardware.kernel=plain", "hardware.offload.optimizer=cpu", "hardware.hosts=none", "seed=-1")
    told = wrong(workshop, *broken).splitlines()
    starts = ("seed:", "hardware.micro_batch:", "hardware.kernel:", "hardware.offload.optimizer:", "hardware.hosts:")
    assert len(told) == len(starts)
    assert all(any(start in line for line in told) for start in starts)
    told = wrong(workshop, "hardware.zero=5", "hardware.offload.optimizer=cpu", "hardware.precision=fp16", "hardware.deepspeed=none.json")
    assert "hardware.zero: found 5" in told
    assert "hardware.deepspeed: " in told
    assert "hardware.offload" not in told, "which ZeRO level it is nobody knows"
    assert "hardware: found 3, wanted a mapping" in wrong(workshop, "hardware=3")


def test_a_folder_of_the_fast_disk_starts_at_the_recipe_and_is_looked_for_here(workshop: Workshop):
    words = ("hardware.offload.optimizer=nvme", "hardware.zero=3")
    (workshop.root / "fast").mkdir()
    there = workshop.recipe(*words, "hardware.offload.folder=fast")
    assert there.hardware.offload.folder == str(workshop.root / "fast")
    assert lacks_here(there) == []
    (found,) = lacks_here(workshop.recipe(*words, "hardware.offload.folder=/none/fast"))
    assert str(found).endswith(
        "hardware.offload.folder: found /none/fast, and there is no such folder here: nvme wants one on a fast disk of each node"
    )
