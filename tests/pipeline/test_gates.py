"""Names that only a running stage used to tell: metrics of a gate, layers of an adapter. Told by `check`, before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.gates import missed_gates
from pipeline.handoffs import path_problems
from pipeline.recipe import load
from stages.evaluate.config import Evaluate, called
from stages.ppo.config import PPO

FAMILY = """\
name: family
stages:
  world: {kind: world}
  words: {kind: tokenizer, data: [{stage: world, path: stories.jsonl}]}
  base: {kind: pretrain, tokenizer: words, model: {layers: 2}, data: [{stage: world, path: stories.jsonl}], tokens: 1000BASE}
  chat: {kind: sft, model: base, data: [{stage: world, path: chats.jsonl}]CHAT}
  judge: {kind: reward, model: chat, data: [{stage: world, path: pairs.jsonl}]JUDGE}
  policy: {kind: ppo, model: chat, rewards: [{model: judge}], prompts: [{stage: world, path: prompts.jsonl}], steps: 20POLICY}
  exam: {kind: evaluate, models: [base, policy], tasks: [{name: a, prompts: [{stage: world, path: exam.jsonl}], rule: world}]EXAM}
"""


def family(**more: str) -> str:
    text = FAMILY
    for stage in ("base", "chat", "judge", "policy", "exam"):
        text = text.replace(stage.upper(), f", {more[stage]}" if stage in more else "")
    return text


@pytest.mark.parametrize(
    ("stage", "written", "says"),
    [
        (
            "judge",
            "require: {acuracy: 0.7}",
            "recipe.yaml:7: stages.judge.require.acuracy: a stage of kind reward gives no such metric (it gives accuracy, ",
        ),
        ("judge", "require: {acuracy: 0.7}", "; did you mean 'accuracy'?"),
        ("base", "require: {perplexty: {max: 3}}", "; did you mean 'perplexity'?"),
        ("policy", "require: {heldout_reward: 0}", "; did you mean 'held_out_reward'?"),
        ("policy", "require: {reward_jugde: 0}", "; did you mean 'reward_judge'?"),
        ("policy", "require: {held_out_reward_jugde: 0}", "; did you mean 'held_out_reward_judge'?"),
        (
            "exam",
            "require: {polcy.good: 0.9}",
            "stages.exam.require.polcy.good: a stage of kind evaluate gives no such metric (it gives base.*, policy.*)",
        ),
        ("exam", "require: {polcy.good: 0.9}", "; did you mean 'policy.good'?"),
        (
            "chat",
            "adapter: {kind: lora, targets: [q_proj, v_prj]}",
            "recipe.yaml:6: stages.chat.adapter.targets.1: the model has no layer 'v_prj'",
        ),
        (
            "judge",
            "adapter: {kind: lora, targets: [o_poj]}",
            "recipe.yaml:7: stages.judge.adapter.targets.0: the model has no layer 'o_poj'",
        ),
        ("policy", "adapter: {kind: lora, targets: [lm_head]}", "stages.policy.adapter.targets.0: 'lm_head' shares its weights"),
    ],
)
def test_a_wrong_name_is_told_with_its_line_and_the_nearest_right_one(
    mistakes: Callable[..., list[str]], stage: str, written: str, says: str
):
    [found] = mistakes(family(**{stage: written}))
    assert says in found


@pytest.mark.parametrize(
    ("stage", "path", "says"),
    [
        ("words", "story.jsonl", "'world' leaves no 'story.jsonl' (it leaves stories.jsonl, stories-heldout.jsonl, chats.jsonl,"),
        ("words", "story.jsonl", "; did you mean 'stories.jsonl'?"),
        ("chat", "chat/*.jsonl", "'world' leaves no 'chat/*.jsonl'"),
        ("base", "stories*.jsonl", ""),
        ("base", ".", ""),
    ],
)
def test_a_path_into_what_a_stage_will_leave_is_checked_before_it_is_made(tmp_path: Path, stage: str, path: str, says: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(family())
    found = [str(problem) for problem in path_problems(load(file, [f"stages.{stage}.data.0.path='{path}'"]))]
    assert len(found) == bool(says)
    assert says in "".join(found)


@pytest.mark.parametrize(
    ("stage", "written"),
    [
        ("judge", "require: {accuracy: 0.7, accuracy_people: 0.5, start_distance: {max: 0.1}}"),
        ("policy", "require: {reward_judge: 0, held_out_reward_judge: 0, held_out_kl: {max: 9}}"),
        ("exam", "require: {policy.good: 0.9, policy.good_held_fact: 0.5}"),
        ("chat", "adapter: {kind: lora, targets: [q_proj, v_proj]}"),
    ],
)
def test_right_names_pass_and_names_that_the_data_give_too(mistakes: Callable[..., list[str]], stage: str, written: str):
    assert mistakes(family(**{stage: written})) == []


def test_an_architecture_that_the_recipe_does_not_tell_is_left_to_the_stage(mistakes: Callable[..., list[str]]):
    hub = "name: a\nstages:\n  chat: {kind: sft, model: 'hub:a/b', data: [{path: x.jsonl}], adapter: {kind: lora, targets: [c_attn]}}\n"
    assert mistakes(hub) == []


def test_a_folder_tells_its_architecture(mistakes: Callable[..., list[str]], tmp_path):  # type: ignore[no-untyped-def]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    text = "name: a\nstages:\n  chat: {kind: sft, model: ./m, data: [{path: x.jsonl}], adapter: {kind: lora, targets: [c_attn]}}\n"
    assert "no layer 'c_attn'" in mistakes(text)[0]
    (tmp_path / "m" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    assert mistakes(text) == []


def test_models_of_an_evaluation_have_the_names_that_its_report_gives_them():
    told = Evaluate(models=("chat", "./there/chat", "hub:me/policy@abc"), text=({"path": "x"},), rewards=(), best_of=1).measures()  # type: ignore[arg-type]
    assert told == ("chat.*", "chat_2.*", "policy.*")
    assert called(["chat", "chat_3", "there/chat"]) == ["chat", "chat_3", "chat_4"], "no name twice: one model would hide the other"


@pytest.mark.parametrize(
    ("kind", "sizes"), [("world", {"people": 40, "documents": 4, "chats": 4, "pairs": 4, "prompts": 4}), ("arithmetic", {})]
)
def test_generated_data_are_what_their_stage_says_that_it_leaves(tmp_path: Path, kind: str, sizes: dict[str, int]):
    from data import arithmetic, world
    from stages.registry import config_class

    if kind == "world":
        written = world.write(tmp_path, world.Spec(seed=1, **sizes))
    else:
        written = arithmetic.write(tmp_path, arithmetic.Spec(seed=1, **config_class(kind)().model_dump(exclude={"kind", "require"})))
    assert tuple(written) == config_class(kind)(**sizes).leaves()


def test_the_parts_of_a_reward_are_called_what_they_will_be_called_in_the_result():
    parts = ({"model": "hub:me/judge"}, {"rule": "world"}, {"rule": "regex:a"}, {"rule": "regex:b"}, {"models": ("one", "two")})
    told = PPO.model_validate({"model": "chat", "steps": 1, "critic_warmup": 0, "rewards": parts, "prompts": ({"path": "x"},)}).measures()
    assert {
        "reward_judge",
        "reward_world",
        "reward_world_*",
        "reward_regex",
        "reward_regex_3",
        "reward_ensemble",
        "reward_ensemble_spread",
    } <= {*told}
    assert "held_out_reward_judge" in told
    assert not {"reward_*", "held_out_*"} & {*told}


@pytest.mark.parametrize(
    ("metric", "reported", "says"),
    [
        (
            "policy_loss",
            ("kl", "policy_loss_scale"),
            "because no update of the last rollouts was taken: in fp16 one whose gradients overflow",
        ),
        ("policy_loss", ("kl",), "because no update of the last rollouts was taken: divergence.json"),
        ("mix_loss", ("kl",), "because the stage has no `mix`"),
        ("critic_loss_scale", ("kl",), "because losses are scaled in fp16 alone"),
        ("reward_world_short", ("kl", "reward"), "(it reports kl, reward)"),
    ],
)
def test_a_gate_on_a_number_that_could_not_be_measured_says_why(metric: str, reported: tuple[str, ...], says: str):
    given = {"model": "./m", "rewards": [{"rule": "world"}], "prompts": [{"path": "x"}], "steps": 20}
    policy = PPO.model_validate({**given, "require": {metric: {"max": 1}}})
    [missed] = missed_gates(policy.require, dict.fromkeys(reported, 1.0), policy)
    assert missed.startswith(f"it reports no {metric}")
    assert says in missed
