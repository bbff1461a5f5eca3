"""The cheapest setting that fits is chosen and explained; what cannot fit is refused with what does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeError
from pipeline.estimate import compute
from pipeline.estimate.command import estimate
from pipeline.estimate.machine import MARGIN, Machine, machine
from pipeline.estimate.models import Models, players
from pipeline.estimate.telling import reasons
from pipeline.plan import make_plan
from pipeline.recipe import load
from pipeline.store import Run

SEVEN = {"hidden_size": 4096, "layers": 32, "heads": 32, "mlp_size": 11008, "context": 2048, "tied_embeddings": False}
ON_DISK = {"optimizer": "nvme", "parameters": "nvme", "folder": "/fast"}
EIGHT = machine(8, "80GB", "h100")


def recipe(folder: Path, stages: dict[str, Any], **head: Any) -> Any:
    """The plan of a recipe with a tokenizer of 32,000 tokens and data that are on the Hub."""
    words = {"kind": "tokenizer", "vocab_size": 32_000, "data": [{"path": "hub:some/text"}]}
    file = folder / "r.yaml"
    file.write_text(json.dumps({"name": "r", "stages": {"words": words, **stages}, **head}))
    return make_plan(load(file), Run(folder / "runs" / "r"))


def base(**settings: Any) -> dict[str, Any]:
    model = {**SEVEN, **settings.pop("model", {})}
    data = [{"path": "hub:some/text"}]
    return {"kind": "pretrain", "tokenizer": "words", "model": model, "data": data, "tokens": 10**9, "batch_tokens": 2**22, **settings}


def ppo(**settings: Any) -> dict[str, Any]:
    prompts = [{"path": "hub:some/prompts"}]
    return {"kind": "ppo", "model": "base", "prompts": prompts, "steps": 100, "batch": 64, "rewards": [{"rule": "length:5"}], **settings}


def reward(**settings: Any) -> dict[str, Any]:
    return {"kind": "reward", "model": "base", "data": [{"path": "hub:some/pairs"}], **settings}


def held(plan: Any, stage: str) -> dict[str, tuple[float, float]]:
    """Parameters of each player of a stage that lie there for it, and those of them that train."""
    models, found = Models(plan), {}
    for step in plan.steps:
        found[step.name] = models.of_step(step)
    work = plan.step(stage).config.workload()
    return {each.player.name: (each.parameters, each.trained) for each in players(work, found[stage])}


WORDS = 6_738_415_616
SCORE = WORDS - 32_000 * 4096 + 4096


def test_all_four_players_of_ppo_are_counted(tmp_path: Path):
    stages = {"base": base(), "judge": reward(), "policy": ppo(rewards=[{"model": "judge"}])}
    assert held(recipe(tmp_path, stages), "policy") == {
        "policy": (WORDS, WORDS),
        "reference": (WORDS, 0),
        "critic": (SCORE + 1, SCORE + 1),
        "reward judge": (SCORE, 0),
    }


def test_players_that_share_weights_are_counted_once(tmp_path: Path):
    lora = {"kind": "lora", "rank": 8}
    adapter = 32 * 8 * (4 * 8192 + 3 * (4096 + 11008))
    trunk = recipe(tmp_path, {"base": base(), "policy": ppo(players="shared-trunk")})
    assert held(trunk, "policy")["critic"] == ((4096 + 1) * 8192 + 8192 + 1,) * 2
    on_base = recipe(tmp_path, {"base": base(), "policy": ppo(players="shared-base", adapter=lora)})
    assert held(on_base, "policy") == {
        "policy": (WORDS + adapter, adapter),
        "reference": (0, 0),
        "critic": (adapter + 4097, adapter + 4097),
    }


def test_a_judge_shares_the_base_only_where_it_is_an_adapter_on_it(tmp_path: Path):
    lora = {"kind": "lora", "rank": 8, "hand_over": "stack"}
    policy = ppo(players="shared-base", adapter=lora, rewards=[{"model": "judge"}])
    adapter = 32 * 8 * (4 * 8192 + 3 * (4096 + 11008))
    merged = recipe(tmp_path, {"base": base(), "judge": reward(), "policy": policy})
    assert held(merged, "policy")["reward judge"] == (SCORE, 0)
    apart = recipe(tmp_path, {"base": base(), "judge": reward(adapter=lora), "policy": policy})
    assert held(apart, "policy")["reward judge"] == (adapter + 2 * 4096, 0)


def chosen(plan: Any, stage: str, machine: Machine = EIGHT) -> Any:
    return next(each for each in estimate(plan, machine) if each.stage.name == stage)


def test_the_cheapest_setting_that_fits_is_chosen(tmp_path: Path):
    """Seven billion parameters on eight devices: whole they take 16 bytes each, and DDP's buckets 4 more."""
    plan = recipe(tmp_path, {"base": base()})
    small = chosen(recipe(tmp_path, {"base": base(model={"layers": 8})}), "base").chosen
    assert (small.setting.zero, small.setting.checkpointing) == (0, False)
    found = chosen(plan, "base")
    assert found.chosen.setting.zero in (1, 2, 3)
    assert found.chosen.memory.total <= 80e9 * (1 - MARGIN)
    before = [option for option in found.options if option.rank < found.chosen.rank]
    assert before
    assert not any(option.fits and not option.setting.checkpointing for option in before)
    larger = chosen(plan, "base", replace(EIGHT, memory=200 * 10**9)).chosen
    assert larger.setting.zero == 0


def test_a_level_that_the_recipe_asks_for_is_kept(tmp_path: Path):
    plan = recipe(tmp_path, {"base": base(model={"layers": 8})}, hardware={"zero": 3, "micro_batch": 1})
    found = chosen(plan, "base")
    assert {option.setting.zero for option in found.options} == {3}
    assert {option.setting.rows for option in found.options} == {1}


def test_what_cannot_fit_is_refused_with_the_nearest_that_does(tmp_path: Path):
    plan = recipe(tmp_path, {"base": base()}, hardware={"zero": 3, "offload": {"optimizer": "cpu"}})
    on_nodes = chosen(plan, "base", replace(EIGHT, gpus=2, memory=14 * 10**9))
    assert on_nodes.chosen is None
    assert "nodes" in on_nodes.near
    policy = chosen(recipe(tmp_path, {"base": base(), "policy": ppo()}), "policy", replace(EIGHT, gpus=1, memory=40 * 10**9))
    assert policy.chosen is None
    assert "adapter" in policy.near
    hopeless = chosen(
        recipe(tmp_path, {"base": base(), "exam": {"kind": "evaluate", "models": ["base"], "text": [{"path": "hub:a/b"}]}}),
        "exam",
        replace(EIGHT, memory=10**9),
    )
    assert "it needs devices of" in hopeless.near


def test_a_step_that_processes_cannot_share_is_refused(tmp_path: Path):
    found = chosen(recipe(tmp_path, {"base": base(batch_tokens=2048 * 12)}), "base")
    assert found.chosen is None
    assert found.near == "a step of 12 rows of 2048 tokens cannot be shared by 8 processes evenly: take 6, or set batch_tokens to 32768"
    assert chosen(recipe(tmp_path, {"base": base(batch_tokens=2048 * 12)}), "base", replace(EIGHT, gpus=6)).chosen is not None
    assert chosen(recipe(tmp_path, {"base": base(batch_tokens=32768)}), "base").chosen is not None
    policy = chosen(recipe(tmp_path, {"base": base(), "policy": ppo(batch=4, minibatches=2)}), "policy")
    assert policy.near == "a rollout of 4 answers is too few for 8 processes: take 4, or set batch to 8"


def test_shared_players_are_never_planned_under_zero(tmp_path: Path):
    plan = recipe(tmp_path, {"base": base(model={"layers": 2}), "policy": ppo(players="shared-trunk")})
    found = chosen(plan, "policy")
    assert found.chosen.setting.zero == 0
    assert all(option.impossible for option in found.options if option.setting.zero)


def test_what_is_compiled_is_never_planned_under_zero_three(tmp_path: Path):
    """A run would refuse it."""
    plan = recipe(tmp_path, {"base": base()}, hardware={"kernels": "compile"})
    assert [option.setting.zero for option in chosen(plan, "base").options if option.impossible] == [3] * 4
    small = chosen(plan, "base", replace(EIGHT, memory=40 * 10**9)).chosen
    assert small is None or small.setting.zero < 3


def test_tokens_flops_hours_price_and_disk_follow_from_one_another(tmp_path: Path):
    found = chosen(recipe(tmp_path, {"base": base()}), "base", machine(8, None, "h100", price=2.0, mfu=0.5))
    stage = found.stage
    each = 6 * (stage.first.shape.linear + 32_000 * 4096) + 12 * 32 * 4096 * 2048
    assert found.flops == pytest.approx(each * 1e9)
    again = 4 / 3 if found.chosen.setting.checkpointing else 1
    assert found.hours == pytest.approx(found.flops * again / (8 * 0.5 * 989.4e12) / 3600)
    assert found.price == pytest.approx(found.hours * 16)
    assert found.disk.kept == 3  # two that are kept, and the one that is written
    assert found.disk.checkpoint == WORDS * (4 + (12 if found.chosen.setting.zero else 8))
    assert found.disk.artifact == 4 * WORDS


def test_a_machine_without_memory_is_refused():
    with pytest.raises(RecipeError, match="--gpus: how much memory has each"):
        machine(8, None, None)


def test_a_tiny_model_takes_as_long_as_its_steps_take_to_start(tmp_path: Path):
    """4 passes of 2 layers in each of 100 steps, whatever the arithmetic; twice the devices halve the passes and nothing else."""
    tiny = {"hidden_size": 8, "layers": 2, "heads": 1, "mlp_size": 64, "context": 64, "tied_embeddings": True}
    given = recipe(
        tmp_path, {"base": base(model=tiny, tokens=100 * 8 * 64, batch_tokens=8 * 64), "policy": ppo()}, hardware={"micro_batch": 1}
    )
    for gpus, passes in ((2, 4), (4, 2)):
        found = chosen(given, "base", replace(EIGHT, gpus=gpus))
        assert found.hours * 3600 == pytest.approx(100 * (compute.STEP + passes * 2 * compute.LAYER))
        assert found.flops / (gpus * 989.4e12) < 1e-3 * found.hours * 3600
    policy = chosen(given, "policy", replace(EIGHT, gpus=2))
    steps = (100 + 90) * 4  # the critic's, and the policy's behind its warm-up
    assert (policy.hours - policy.writing) * 3600 >= steps * (compute.STEP + 8 * 2 * compute.LAYER)


def test_what_was_not_taken_is_named_with_its_offload(tmp_path: Path):
    """By level alone two of the reasons would be one and the same."""
    found = chosen(recipe(tmp_path, {"base": base()}), "base", replace(EIGHT, memory=44 * 10**9))
    told = reasons(found.options, found.chosen)
    assert found.chosen.setting.optimizer == "cpu" or found.chosen.setting.zero == 3, told
    levels = [option.level for option in found.options]
    assert len(set(levels)) == len(levels)
    assert "ZeRO-1 with optimizer on cpu" in levels
    assert "ZeRO-3 with optimizer on cpu and parameters on cpu" in levels


def test_sixteen_bits_are_counted_where_a_run_would_compute_in_them(tmp_path: Path):
    """A V100 has fp16 alone, which is not possible under ZeRO; an H100 has bf16 under all of it."""
    small = {"base": base(model={"hidden_size": 512, "layers": 8, "heads": 8, "mlp_size": None})}

    def bytes_of(gpu: str, **hardware: Any) -> dict[int, set[int]]:
        (found,) = estimate(recipe(tmp_path, small, hardware=hardware), machine(4, None, gpu))
        return {zero: {each.setting.compute for each in found.options if each.setting.zero == zero and each.fits} for zero in range(4)}

    assert bytes_of("h100") == {key: {2} for key in range(4)}
    assert bytes_of("v100") == {0: {2}, 1: {4}, 2: {4}, 3: {4}}
    assert bytes_of("h100", precision="fp16") == {0: {2}, 1: set(), 2: set(), 3: set()}
    assert bytes_of("h100", precision="fp32") == {key: {4} for key in range(4)}


def test_the_words_of_every_option_are_a_recipe_that_a_run_takes(tmp_path: Path):
    plan = recipe(tmp_path, {"base": base(model={"layers": 4})})
    found = chosen(plan, "base").options
    assert sum(option.on_disk for option in found) == 1
    for option in found:
        words = option.overrides
        assert ("hardware.offload.folder=FOLDER" in words) == option.on_disk
        hardware = load(plan.recipe.file, [word.replace("FOLDER", "/fast") for word in words]).hardware
        assert hardware.zero == option.setting.zero
        assert (hardware.offload.optimizer or "device", hardware.offload.parameters or "device") == (
            option.setting.optimizer,
            option.setting.parameters,
        )
    small = replace(EIGHT, memory=4 * 10**9)
    (only,) = estimate(recipe(tmp_path, {"base": base()}, hardware={"zero": 3, "offload": ON_DISK}), small)
    assert "hardware.offload.folder=/fast" in only.options[0].overrides
