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
    other = [{"role": "user", "content": "c"}, chat[1]]
    write("text", {"text": "a"}, {"text": "b"})
    write("chats", {"messages": chat}, {"messages": other})
    write("prompts", {"prompt": "a", "reference": "b"}, {"prompt": "b", "reference": "a"})
    (tmp_path / "lengths.yaml").write_text(RECIPE)
    return tmp_path


def write(name: str, *rows: object) -> None:
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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

    monkeypatch.setattr("pipeline.here.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    lengths = ["stages.policy.sampling.max_new_tokens=8", "stages.exam.sampling.max_new_tokens=8"]
    lacks = "track.1: wandb is not installed: pip install 'recipe-pipeline[wandb]'"
    for command, code in ((["check"], 0), (["plan"], 0), (["run"], 2)):  # a check may be of a run elsewhere
        assert main([command[0], "lengths.yaml", *lengths, "track=[tensorboard, wandb]"]) == code
        said = capsys.readouterr()
        assert lacks in (said.err if code else said.out)
    assert not Path("runs").exists()
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


def turns(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def told(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    assert main(["check", "lengths.yaml", *overrides]) == 0
    return capsys.readouterr().out


COMMANDS = (["check"], ["plan"], ["run"], ["run", "--dry-run"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.policy.sampling.max_new_tokens=64", "leaves no room for a prompt in a context of 64 tokens"),
        ("stages.chat.max_tokens=65", "stages.chat.max_tokens: found 65, wanted at most the context of the model, 64 tokens"),
        ("stages.chat.data.0.path=chat.jsonl", "did you mean 'chats.jsonl'?"),
        ("stages.chat.epoch=1", "did you mean 'epochs'?"),
    ],
)
def test_check_plan_and_run_refuse_the_same(capsys: pytest.CaptureFixture[str], command: list[str], override: str, said: str):
    assert main([command[0], "lengths.yaml", *command[1:], override]) == 2
    assert said in capsys.readouterr().err


def test_wrong_settings_missing_data_and_bad_rows_are_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "chats.jsonl").write_text('{"messages": [{"role": "user"\n')
    wrong = (
        "stages.base.tokns=3",
        "stages.policy.prompts.0.path=prompt.jsonl",
        "stages.exam.sampling.max_new_tokens=0",
        "track=[tensorbord]",
    )
    said = complaint(capsys, *wrong)
    assert "stages.base.tokns: unknown key; did you mean 'tokens'?" in said
    assert "stages.policy.prompts.0.path: no data at 'prompt.jsonl' (did you mean 'prompts.jsonl'?)" in said
    assert "stages.exam.sampling.max_new_tokens: found 0, wanted greater than 0" in said
    assert "track.0: found 'tensorbord'" in said
    assert "chats.jsonl, row 1: not valid JSON" in said
    assert len(said.splitlines()) == len(set(said.splitlines())) == 5


@pytest.mark.parametrize("field", ["words", "base", "chat", "policy"])
def test_data_of_which_no_share_can_be_held_out_are_refused_before_anything_starts(capsys: pytest.CaptureFixture[str], field: str):
    Path("text.txt").write_text("One document.\n")
    write("one", {"messages": turns("Q", "A")}, {"messages": turns("q!", "A")}, {"messages": turns("q", "A")})
    path = "text.txt" if field in ("words", "base") else "one.jsonl"
    name = "prompts" if field == "policy" else "data"
    said = complaint(capsys, f"stages.{field}.{name}.0.path={path}")
    what = "1 record" if path == "text.txt" else "3 records with one and the same content"
    assert f"stages.{field}.{name}: {what} cannot be divided into training and held-out data" in said
    assert ("or name `validation` data" in said) == (field != "words"), "a tokenizer has no such field"
    if field != "words":
        assert complaint(capsys, f"stages.{field}.{name}.0.path={path}", f"stages.{field}.validation=[{{path: {path}}}]") == ""


@pytest.mark.parametrize("field", ["chat", "policy"])
def test_a_handful_of_held_out_records_is_a_warning(capsys: pytest.CaptureFixture[str], field: str):
    name = "prompts" if field == "policy" else "data"
    write("rows", *({"messages": turns(f"Q{n}", "A"), "reference": "A"} for n in range(60)))
    use = f"stages.{field}.{name}.0.path=rows.jsonl"
    held = 1 if field == "chat" else 3
    warns = f"warning: stages.{field}.{name}: about {held} of 60 records {'are' if held > 1 else 'is'} held out, and what is measured on so few says"
    assert warns in told(capsys, use)
    write("few", {"messages": turns("x", "A")}, {"messages": turns("y", "A")})
    few = told(capsys, use, f"stages.{field}.validation=[{{path: few.jsonl}}]")
    assert f"warning: stages.{field}.validation: 2 records are held out" in few
    enough = told(capsys, use, f"stages.{field}.validation=[{{path: rows.jsonl}}]")
    assert not [line for line in enough.splitlines() if f"stages.{field}." in line and "held out" in line]


def test_of_text_a_few_held_out_documents_may_be_long_ones(capsys: pytest.CaptureFixture[str]):
    assert not [line for line in told(capsys).splitlines() if "stages.base." in line and "held out" in line]


def test_two_sources_of_one_document_each_can_be_divided(capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        Path(f"{name}.txt").write_text(f"Document {name}.\n")
    assert complaint(capsys, "stages.base.data=[{path: a.txt}, {path: b.txt}]") == ""
    assert "2 records with one and the same content" in complaint(capsys, "stages.base.data=[{path: a.txt}, {path: a.txt}]")


def test_chats_that_surely_do_not_fit_are_counted(capsys: pytest.CaptureFixture[str]):
    several = [*turns("Q", "A"), *turns("Q", "word " * 70)]
    write("chats", {"messages": several}, {"messages": turns("Q", "word " * 70)}, {"messages": turns("Q", "A")})
    said = "2 of 3 records have more words than the 64 tokens that there is room for: 1 are left out, the others lose turns"
    assert f"warning: stages.chat.data: {said}" in told(capsys)
    write("chats", *({"messages": turns(f"Q{n}", "word " * 70)} for n in range(2)))
    assert "stages.chat.data: 2 of 2 records have more words than the 64 tokens" in (error := complaint(capsys))
    assert "none fits even without the turns that can be dropped" in error
    assert "32 tokens that there is room for" in complaint(capsys, "stages.chat.max_tokens=32")


def test_pairs_and_prompts_that_surely_do_not_fit_are_counted(capsys: pytest.CaptureFixture[str]):
    old = {"prompt": [*turns("word " * 70, "A"), {"role": "user", "content": "Q"}], "chosen": "A", "rejected": "B"}
    write("pairs", old, {"prompt": "Q", "chosen": "A", "rejected": "word " * 70}, {"prompt": "R", "chosen": "A", "rejected": "B"})
    Path("lengths.yaml").write_text(RECIPE + "  judge: {kind: reward, model: chat, data: [{path: pairs.jsonl}]}\n")
    assert "stages.judge.data: 2 of 3 records have more words than the 64 tokens that there is room for: 1 are left out" in told(capsys)
    write("prompts", {"prompt": "word " * 30, "reference": "A"}, {"prompt": "Q", "reference": "B"})
    room = ("stages.policy.sampling.max_new_tokens=40", "stages.exam.sampling.max_new_tokens=8")
    assert "stages.policy.prompts: 1 of 2 records have more words than the 24 tokens that there is room for" in told(capsys, *room)
    error = complaint(capsys, room[0], "stages.exam.sampling.max_new_tokens=40")
    assert "stages.exam.tasks.0.prompts: 1 of 2 records" in error, "an exam leaves no prompt out"


def test_a_stage_that_takes_hardly_a_step_is_told_by_check_and_where_settings_tell_it_by_plan(capsys: pytest.CaptureFixture[str]):
    base = "warning: stages.base.tokens: 1 optimizer step in all from tokens 100 and batch_tokens 16384 (the default)"
    chat = "warning: stages.chat.batch_tokens: about 1 optimizer step in all from 2 chats of 4 characters, epochs 2.0 (the default) and batch_tokens"
    found = told(capsys)
    assert base in found
    assert chat in found
    assert "raise tokens or lower batch_tokens" in found
    assert main(["plan", "lengths.yaml"]) == 0
    planned = capsys.readouterr().out
    assert base in planned
    assert "stages.chat.batch_tokens" not in planned
    assert "stages.base.tokens" not in told(capsys, "stages.base.tokens=200_000")


def test_pairs_that_make_few_steps_are_told(capsys: pytest.CaptureFixture[str]):
    write("pairs", *({"prompt": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(100)))
    Path("lengths.yaml").write_text(RECIPE + "  judge: {kind: reward, model: chat, data: [{path: pairs.jsonl}]}\n")
    assert "1 optimizer step in all from 95 pairs to learn from, epochs 1.0 (the default) and batch_pairs 64 (the default)" in told(capsys)
    assert "stages.judge.batch_pairs" not in told(capsys, "stages.judge.batch_pairs=4")


def test_a_message_says_which_values_nobody_wrote(capsys: pytest.CaptureFixture[str]):
    said = complaint(capsys, "stages.policy.steps=10")
    assert "critic_warmup 10 (the default) leaves none of steps 10 for the policy; lower critic_warmup or raise steps" in said
    said = complaint(capsys, "stages.exam.sampling={}")
    assert "found 256 (the default), which leaves no room for a prompt in a context of 64 tokens; set it lower" in said


def test_prompts_without_the_reference_that_a_rule_grades_by_are_refused(capsys: pytest.CaptureFixture[str]):
    write("prompts", {"prompt": "a", "reference": "b"}, {"prompt": "b"})
    said = "1 of 2 prompts have no reference, by which rule 'exact' grades; wanted a column reference"
    error = complaint(capsys)
    assert f"stages.policy.prompts: {said}" in error
    assert f"stages.exam.tasks.0.prompts: {said}" in error
    ungraded = ("stages.policy.rewards=[{rule: 'length:5'}]", "stages.exam.tasks.0.rule=regex:b")
    assert complaint(capsys, *ungraded) == ""
    assert "regex:{reference}" in complaint(capsys, ungraded[0], 'stages.exam.tasks.0.rule="regex:{reference}"')


@pytest.mark.parametrize(
    ("margin", "said"), [({}, "margin: true, but no pair has a `margin` column"), ({"margin": -1}, "margin: found -1, wanted at least 0")]
)
def test_margins_that_are_asked_for_and_not_there_are_refused(capsys: pytest.CaptureFixture[str], margin: dict[str, int], said: str):
    write("pairs", *({"prompt": f"Q{n}", "chosen": "A", "rejected": "B", **margin} for n in range(20)))
    Path("lengths.yaml").write_text(RECIPE + "  judge: {kind: reward, model: chat, data: [{path: pairs.jsonl}], margin: true}\n")
    assert f"stages.judge.data: {said}" in complaint(capsys)
    assert complaint(capsys, "stages.judge.margin=false") == ""


def test_a_file_of_no_known_kind_is_told_by_plan_too(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "lengths.yaml", "stages.base.data.0.path=lengths.yaml"]) == 2
    assert "cannot tell how to read a '.yaml' file" in capsys.readouterr().err
