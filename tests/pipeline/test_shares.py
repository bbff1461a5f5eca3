"""A step that the processes of a recipe cannot share is told by every command before anything starts, with its line and with what works."""

from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.here import lacks_here
from pipeline.recipe import load
from pipeline.shares import Asked, asked, share_problems
from stages.contract import DONE, WRONG_INPUT, Hardware

RECIPE = """\
name: small
stages:
  world: {kind: world}
  words: {kind: tokenizer, data: [{stage: world, path: stories.jsonl}]}
  base:
    kind: pretrain
    tokenizer: words
    model: {hidden_size: 32, layers: 1, heads: 2, context: 512}
    data: [{stage: world, path: stories.jsonl}]
    tokens: 100_000
    batch_tokens: 2_048
  chat: {kind: sft, model: base, data: [{stage: world, path: chats.jsonl}], batch_tokens: 2_048, max_tokens: 256}
  judge:
    kind: reward
    model: chat
    data: [{stage: world, path: pairs.jsonl}]
    batch_pairs: 8
  policy: {kind: ppo, model: chat, rewards: [{model: judge}], prompts: [{stage: world, path: prompts.jsonl}], steps: 50, batch: 8, evaluation_prompts: 8,
           sampling: {max_new_tokens: 32}}
"""
BASE = (
    "small.yaml:11: stages.base.batch_tokens: found 2048, and a step of 4 rows of 512 tokens cannot be shared by 3 processes evenly "
    "(hardware.processes: 3): set hardware.processes to 2, which changes no result, or batch_tokens to 3072"
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE)
    return file


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["plan"],
        ["run"],
        ["run", "--dry-run"],
        ["run", "--slurm", "--dry-run", "hardware.gpus=0"],
        ["run", "--slurm", "hardware.gpus=0"],
    ],
)
def test_every_command_that_looks_before_it_starts_refuses_the_same(small: Path, command: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([command[0], "small.yaml", "hardware.processes=3", *command[1:]]) == WRONG_INPUT
    told = capsys.readouterr().err
    assert BASE in told
    assert "stages.chat.batch_tokens: found 2048, and a step of 8 rows of 256 tokens" in told
    assert "stages.judge.batch_pairs: found 8, and a step of 8 pairs" in told
    assert "stages.policy" not in told, "eight answers are enough for three"
    assert not (small.parent / "runs").exists()


def test_the_number_that_is_told_serves_all_stages(small: Path):
    """Four would do for the pairs, and not for the rows."""
    found = [
        str(each) for each in share_problems(load(small, ["hardware.processes=7", "stages.base.batch_tokens=1024"]), ["base", "judge"])
    ]
    assert len(found) == 2
    assert all("set hardware.processes to 2, which changes no result" in each for each in found)
    assert share_problems(load(small, ["hardware.processes=2"]), ["base", "chat", "judge", "policy"]) == []


def test_rollouts_and_evaluations_have_an_answer_for_each_process(small: Path):
    recipe = load(small, ["hardware.gpus=5", "hardware.hosts=[a, b]", "stages.policy.evaluation_prompts=9"])
    first, second = share_problems(recipe, ["policy"])
    assert first.path == "stages.policy.batch"
    assert (
        "a rollout of 8 answers is too few for 10 processes (hardware.gpus: 5 on each of 2 nodes): set hardware.gpus to 4" in first.message
    )
    assert first.message.endswith("or batch to 12"), "a multiple of the minibatches"
    assert second.path == "stages.policy.evaluation_prompts"
    alone = share_problems(load(small, ["hardware.nodes=9", "hardware.gpus=0"]), ["policy"])
    assert alone[0].message.endswith("take fewer nodes, which changes no result, or batch to 12")


def test_only_what_has_yet_to_start_is_looked_at(small: Path):
    recipe = load(small, ["hardware.processes=3"])
    assert share_problems(recipe, ["world", "words", "policy"]) == []
    assert main(["plan", "small.yaml", "hardware.processes=3", "--only", "world"]) == DONE


def test_a_machine_that_is_named_beside_the_recipe_is_judged_instead(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "hardware.processes=3", "--gpus", "2", "--gpu", "h100"]) == DONE
    assert main(["plan", "small.yaml", "--gpus", "3", "--gpu", "h100"]) == 1
    assert "a step of 4 rows of 512 tokens cannot be shared by 3 processes evenly: take 2" in capsys.readouterr().out


def test_what_the_recipe_asks_for_is_what_a_run_would_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert asked(Hardware()) == Asked("processes", 1)
    assert asked(Hardware(processes=3)) == Asked("processes", 3)
    assert asked(Hardware(gpus=4, processes=3, nodes=2)) == Asked("gpus", 4, 2)
    assert asked(Hardware(gpus=0, processes=3, hosts=("a", "b"))) == Asked("processes", 3, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert asked(Hardware(processes=3)) is None


def test_gpus_that_are_here_are_a_warning_where_all_of_them_would_be_taken(small: Path, monkeypatch: pytest.MonkeyPatch):
    """With `zero: auto` a run takes as many as can share a step."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert lacks_here(load(small)) == []
    found = lacks_here(load(small, ["hardware.zero=0"]))
    assert [each.path for each in found] == ["stages.base.batch_tokens", "stages.chat.batch_tokens", "stages.judge.batch_pairs"]
    assert "(hardware.gpus: 3): set hardware.gpus to 2" in found[0].message


def test_rows_beside_virtual_tokens_are_left_to_the_stage(small: Path):
    """They take places of the context, so that a row is shorter than the recipe says, here and in the stages behind."""
    more = "  more: {kind: sft, model: chat, data: [{stage: world, path: chats.jsonl}], batch_tokens: 2_048, adapter: {kind: prefix, hand_over: continue}}\n"
    small.write_text(RECIPE[: RECIPE.index("  judge:")] + more)
    prefix = "stages.chat.adapter={kind: prefix, hand_over: continue}"
    found = share_problems(load(small, ["hardware.processes=3", prefix]), ["base", "chat", "more"])
    assert [each.path for each in found] == ["stages.base.batch_tokens"]
