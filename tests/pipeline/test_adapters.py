"""Adapters in a recipe: what cannot be done is refused before anything starts, with its line, its reason and the way out; the page says the same."""

import json
from pathlib import Path

import pytest

from pipeline.__main__ import main
from stages.adapters.combinations import RULES, Carried, Situation, refusal
from stages.adapters.config import settings_of
from stages.adapters.page import KINDS, POLICIES, written

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
name: adapters
stages:
  words: {kind: tokenizer, data: [{path: text.jsonl}]}
  base: {kind: pretrain, tokenizer: words, model: {context: 64}, data: [{path: text.jsonl}], tokens: 100}
  chat: {kind: sft, model: base, data: [{path: chats.jsonl}], adapter: {rank: 4, hand_over: stack}}
  judge: {kind: reward, model: chat, data: [{path: pairs.jsonl}], adapter: {rank: 4, hand_over: stack}}
  policy:
    kind: ppo
    model: chat
    rewards: [{model: judge}]
    prompts: [{path: prompts.jsonl}]
    steps: 20
    sampling: {max_new_tokens: 8}
    adapter: {rank: 4}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for name, row in (("text", {"text": "a"}), ("chats", {"messages": chat}), ("prompts", {"prompt": "a"}), ("pairs", pair)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "adapters.yaml").write_text(RECIPE)
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *overrides: str, command: str = "plan") -> str:
    code = main([command, "adapters.yaml", *overrides])
    error = capsys.readouterr().err
    assert code == (2 if error else 0)
    return error


CASES = [
    ("stages.chat.adapter={kind: prefix}", "stages.chat.adapter.hand_over: prefix is refused: virtual tokens are no weights"),
    ("stages.chat.adapter={kind: prompt, hand_over: stack}", "reads one prompt at a time"),
    ("stages.base.adapter={kind: p-tuning, hand_over: continue}", "cannot hold what pretraining teaches"),
    ("stages.chat.adapter={init: pissa, hand_over: stack}", "takes its part out of the base's weights"),
    ("stages.policy.adapter={init: olora}", "which is no reference"),
    ("stages.base.adapter={hand_over: stack}", "random weights that no folder holds"),
    ("stages.judge.adapter=null", "stages.judge.model: no adapter after LoRA with hand_over: stack of 'chat' is refused"),
    ("stages.chat.adapter={rank: 8, hand_over: continue}", "must have its kind and shape (rank differs)"),
    ("stages.judge.adapter={kind: ia3}", "one family of adapters"),
    ("stages.chat.adapter={modules_to_save: [embed_tokens], hand_over: stack}", "active once only"),
    ("stages.chat.adapter={kind: qlora}", "a base of four bits"),
    (
        "stages.policy.adapter={kind: lorra}",
        "found kind 'lorra', wanted one of lora, qlora, ia3, prefix, p-tuning, prompt; did you mean 'lora'?",
    ),
    ("stages.policy.adapter={kind: prefix, rank: 3}", "stages.policy.adapter.rank: unknown key"),
    ("stages.policy.adapter={targets: attentoin}", "did you mean 'attention'?"),
]


@pytest.mark.parametrize(("override", "told"), CASES)
def test_an_impossible_combination_is_refused_with_its_reason_and_the_way_out(override: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert told in complaint(capsys, override)


def test_a_possible_recipe_is_planned_and_a_refusal_names_the_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert complaint(capsys) == ""
    (folder / "adapters.yaml").write_text(
        RECIPE.replace(
            "model: chat, data: [{path: pairs.jsonl}], adapter: {rank: 4, hand_over: stack}", "model: chat, data: [{path: pairs.jsonl}]"
        )
    )
    assert complaint(capsys).startswith("adapters.yaml:6: stages.judge.model: ")


def test_virtual_tokens_and_gradient_checkpointing_exclude_one_another(capsys: pytest.CaptureFixture[str]):
    prefix = ("stages.chat.adapter={kind: prefix, hand_over: continue}", "stages.judge=null", "hardware={gradient_checkpointing: true}")
    found = complaint(capsys, prefix[0], prefix[2])
    assert "which a recomputed layer does not get" in found


def test_a_critic_from_a_reward_model_with_a_prompt_is_refused_unless_another_is_named(capsys: pytest.CaptureFixture[str]):
    judge = "stages.judge={kind: reward, model: base, data: [{path: pairs.jsonl}], adapter: {kind: prefix, hand_over: continue}}"
    assert "stages.policy.critic" in (found := complaint(capsys, judge))
    assert "name another model as critic" in found
    assert complaint(capsys, judge, "stages.policy.critic=base") == ""


def test_four_bits_without_bitsandbytes_are_refused_by_a_run_and_told_by_a_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The recipe may be for another machine."""
    four_bits = ("stages.policy.adapter={kind: qlora, dequantise: true}", "stages.chat.adapter={}")
    lacks = "stages.policy.adapter.kind: qlora needs bitsandbytes, which is not installed"
    monkeypatch.setattr("pipeline.here.find_spec", lambda name: None)
    assert lacks in complaint(capsys, *four_bits, command="run")
    assert not Path("runs").exists()
    for there in (None, object()):
        monkeypatch.setattr("pipeline.here.find_spec", lambda name, there=there: there)
        assert main(["plan", "adapters.yaml", *four_bits]) == 0
        warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: a run cannot start on this machine")]
        assert [lacks in line for line in warned] == ([] if there else [True])
        assert "qlora" not in complaint(capsys, *four_bits, command="check")


def test_an_adapter_of_another_run_whose_base_is_gone_is_told_before_the_start(folder: Path, capsys: pytest.CaptureFixture[str]):
    held = {
        "names": ["chat_adapter"],
        "settings": [settings_of({"rank": 4, "hand_over": "stack"}).model_dump(mode="json")],
        "base_digest": "0",
    }
    (folder / "old").mkdir()
    (folder / "old/artifact.json").write_text(json.dumps({"kind": "causal-lm", "adapters": held}))
    (folder / "old/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base/artifact"}))
    found = complaint(capsys, "stages.judge.model=./old", command="check")
    assert "stages.judge.model: " in found
    assert "is an adapter on ../base/artifact, which is not there" in found
    assert "the adapter of the model it starts from is not merged" in complaint(
        capsys, "stages.judge.model=./old", "stages.judge.adapter=null"
    )


def test_the_page_is_the_one_that_the_rules_print():
    page = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
    assert written(page) == page, "run: python -m stages.adapters.page docs/adapters.md"


def test_every_rule_can_apply_and_says_reason_and_way_out():
    met = set()
    for own in [None, *KINDS.values()]:
        for policy in POLICIES:
            one = own.model_copy(update={"hand_over": policy}) if own else None
            for task in ("pretrain", "sft", "reward", "ppo"):
                carried = [
                    Carried(),
                    *(Carried((each.model_copy(update={"hand_over": p}),)) for each in KINDS.values() for p in ("stack", "continue")),
                ]
                for before in carried:
                    for more in ({}, {"from_scratch": True}, {"checkpointing": True}, {"critic": Carried((KINDS["prefix"],))}):
                        if (rule := refusal(Situation(task, one, before, **more))) is not None:
                            met.add(rule.when)
    assert met == {rule.when for rule in RULES}
    assert all(rule.reason and rule.way_out for rule in RULES)


def test_adapters_go_on_through_stages_as_their_policies_say():
    stack, go_on, merge = (settings_of({"rank": 4, "hand_over": policy}) for policy in ("stack", "continue", "merge"))
    assert Carried().then(stack).adapters == (stack,)
    assert Carried((stack,)).then(go_on).adapters == (stack, go_on)
    assert Carried((stack, go_on)).then(stack).adapters == (stack, stack)
    assert Carried((stack, go_on)).then(merge).adapters == Carried().then(None).adapters == ()
