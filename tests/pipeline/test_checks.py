"""What a check finds in hand-offs before anything starts, with the real stages' settings."""

import json
from pathlib import Path

import pytest

from pipeline.__main__ import main

RECIPE = """\
name: lengths
stages:
  words: {kind: tokenizer, data: [{path: text.jsonl}]}
  base: {kind: pretrain, tokenizer: words, model: {context: 64}, data: [{path: text.jsonl}], tokens: 100}
  chat: {kind: sft, model: base, data: [{path: chats.jsonl}]}
  policy:
    kind: ppo
    model: chat
    rewards: [{rule: exact}]
    prompts: [{path: prompts.jsonl}]
    steps: 20
    sampling: {max_new_tokens: 63}
  exam:
    kind: evaluate
    models: [base, policy]
    tasks: [{name: all, prompts: [{path: prompts.jsonl}], rule: exact}]
    sampling: {max_new_tokens: 63}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for name, row in (("text", {"text": "a"}), ("chats", {"messages": chat}), ("prompts", {"prompt": "a", "reference": "b"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "lengths.yaml").write_text(RECIPE)
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    code = main(["check", "lengths.yaml", *overrides])
    error = capsys.readouterr().err
    assert code == (2 if error else 0)
    return error


def model(folder: Path, **settings: object) -> None:
    (folder / "model").mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 32}
    (folder / "model/config.json").write_text(json.dumps(config))
    (folder / "model/tokenizer_config.json").write_text(json.dumps(settings))


def test_an_answer_as_long_as_the_context_is_refused_before_the_model_is_trained(capsys: pytest.CaptureFixture[str]):
    assert complaint(capsys) == ""
    for stage in ("policy", "exam"):
        said = f"stages.{stage}.sampling.max_new_tokens: found 64, which leaves no room for a prompt in a context of 64 tokens"
        assert said in complaint(capsys, f"stages.{stage}.sampling.max_new_tokens=64")


def test_the_context_of_a_folder_is_read_too(folder: Path, capsys: pytest.CaptureFixture[str]):
    model(folder, chat_template="{{ messages }}")
    assert "a context of 32 tokens" in complaint(capsys, "stages.chat.model=./model")


def test_a_chat_template_that_is_missing_is_found_through_every_stage(folder: Path, capsys: pytest.CaptureFixture[str]):
    model(folder)
    continued = "stages.base={kind: pretrain, model: ./model, data: [{path: text.jsonl}], tokens: 100}"
    short = ("stages.policy.sampling.max_new_tokens=8", "stages.exam.sampling.max_new_tokens=8")
    assert "lengths.yaml:5: stages.chat.model: " in (found := complaint(capsys, continued, *short))
    assert "model has no chat template; a tokenizer stage (`existing: ...`) adds one" in found
    assert "stages.words" not in found
    (folder / "model/chat_template.jinja").write_text("{{ messages }}")
    assert complaint(capsys, continued, *short) == ""


def test_a_chat_template_can_come_from_a_tokenizer_made_from_the_models_own(folder: Path, capsys: pytest.CaptureFixture[str]):
    model(folder)
    taken = "stages.words={kind: tokenizer, existing: ./model}"
    continued = "stages.base={kind: pretrain, model: ./model, tokenizer: words, data: [{path: text.jsonl}], tokens: 100}"
    short = ("stages.policy.sampling.max_new_tokens=8", "stages.exam.sampling.max_new_tokens=8")
    assert complaint(capsys, taken, continued, *short) == ""
    adapted = continued.replace("tokens: 100", "tokens: 100, adapter: {kind: lora}")
    assert "an adapter would leave the new tokens of `tokenizer` untrained" in complaint(capsys, taken, adapted, *short)


def test_a_folder_whose_tokenizer_has_more_ids_than_its_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    model(folder, chat_template="{{ messages }}")
    (folder / "model/config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 3}))
    (folder / "model/tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 3, "content": "c"}]})
    )
    said = complaint(capsys, "stages.chat.model=./model")
    assert "stages.chat.model: " in said
    assert "its tokenizer has ids up to 3 and its model only 3 embeddings" in said


@pytest.mark.parametrize("pad", ["</s>", {"content": "</s>"}])
def test_a_folder_that_pads_with_its_end_token_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], pad: object):
    model(folder, chat_template="{{ messages }}", eos_token="</s>", pad_token=pad)
    assert "pads with the token that ends a text" in complaint(
        capsys, "stages.chat.model=./model", "stages.policy.sampling.max_new_tokens=8", "stages.exam.sampling.max_new_tokens=8"
    )


def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr("pipeline.checks.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    lengths = ["stages.policy.sampling.max_new_tokens=8", "stages.exam.sampling.max_new_tokens=8"]
    assert main(["check", "lengths.yaml", *lengths, "track=[tensorboard, wandb]"]) == 2
    assert "track.1: wandb is not installed: pip install 'recipe-pipeline[wandb]'" in capsys.readouterr().err
    assert main(["check", "lengths.yaml", *lengths, "track=[tensorbord]"]) == 2
    assert "did you mean 'tensorboard'?" in capsys.readouterr().err


def test_a_setting_that_looks_like_a_secret_is_no_setting_to_show_to_trackers(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hf_" + "Planted0" * 4
    given = f'stages.policy.rewards=[{{rule: "regex:{secret}"}}]'
    assert complaint(capsys, given) == "", "it stays on this machine"
    told = complaint(capsys, given, "track=[tensorboard]")
    assert "stages.policy.rewards.0.rule: looks like a Hugging Face token, and `track` shows every setting" in told
    assert secret not in told


def test_what_is_made_from_models_of_others_is_not_published_without_a_licence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(folder, chat_template="{{ messages }}")
    given = ("stages.base.model=./model", "stages.base.tokenizer=null", "publish={stages: [chat]}")
    assert complaint(capsys, *given[2:]) == "", "all of it is made here"
    assert "publish: is made from ./model: read its licence, and add `license`" in complaint(capsys, *given)
    assert "licence" not in complaint(capsys, *given, "publish.license=mit")
    assert "licence" not in complaint(capsys, *given[:2], "publish={stages: [words]}")
