"""The card says what the manifest says, in a form that the Hub takes, and nobody's text becomes markup of ours."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.publish import facts
from pipeline.publish.finished import finished
from pipeline.publish.markdown import fenced, number, plain, table, unescaped
from pipeline.store import Run
from tests.hub.card_rules import problems
from tests.hub.server import Server
from tests.pipeline.publish.runs import add_stage, model_files, publish

EVIL = "<script>alert(1)</script> [x](javascript:alert(1)) ![i](http://evil.example/p.png) ``` \n# Head\n| a | b |\n---\n@everyone http://evil.example"


def card(run: Path, stage: str, **how: Any) -> str:
    return publish(run, [stage], owner="me", dry_run=True, **how)[0].card


@pytest.mark.parametrize("stage", ["words", "base", "chat", "judge", "policy"])
def test_the_hub_accepts_every_card(hub: Server, run: Path, stage: str) -> None:
    text = card(run, stage, license="apache-2.0")
    ModelCard(text).validate()
    assert problems(text) == ([], [])
    assert hub.requests("POST", "/validate-yaml")


def test_the_head_says_what_a_machine_reads(run: Path) -> None:
    data = ModelCard(card(run, "policy", license="mit")).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "text-generation")
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    assert results["held-out data of demo/exam", "win_rate"] == 0.55
    assert results["held-out data of demo/policy", "validation_loss"] == 1.5


def test_the_state_of_training_is_no_evaluation(run: Path) -> None:
    measured = {"held_out_reward": 0.5, "accuracy_low": 0.4, "reward": 9.0, "learning_rate": 1e-3, "perplexity_floor": 2.0}
    add_stage(run, "solo", "ppo", model_files("solo"), result={"metrics": measured})
    text = card(run, "solo")
    assert {one.metric_type for one in ModelCard(text).data.eval_results} == {"held_out_reward", "accuracy_low"}
    evaluation, training = text.split("## Evaluation")[1].split("which is no evaluation")
    for name in measured:
        assert (f"| {name} |" in evaluation) == (f"| {name} |" not in training) == (name in ("held_out_reward", "accuracy_low"))


def test_an_evaluation_speaks_only_of_the_result_that_it_judged(run: Path) -> None:
    assert "Anna lives in Rome" in card(run, "policy")
    assert "Anna lives in Rome" not in card(run, "judge")
    add_stage(run, "policy", "ppo", model_files("later"), inputs={"model": "chat"}, config={"steps": 5})
    assert "win_rate" not in card(run, "policy")


def test_a_stage_whose_name_begins_another_keeps_to_its_own_numbers(run: Path) -> None:
    add_stage(run, "chat.two", "sft", model_files("two"), inputs={"model": "base"})
    numbers = {"chat.good": 0.5, "chat.two.good": 0.75}
    add_stage(
        run, "quiz", "evaluate", {"x": ""}, makes="report", inputs={"models.0": "chat", "models.1": "chat.two"}, result={"metrics": numbers}
    )
    found = {one.metric_type: one.metric_value for one in ModelCard(card(run, "chat")).data.eval_results if "quiz" in one.dataset_name}
    assert found == {"good": 0.5}
    found = {one.metric_type: one.metric_value for one in ModelCard(card(run, "chat.two")).data.eval_results if "quiz" in one.dataset_name}
    assert found == {"good": 0.75}


def test_samples_are_cut_to_what_a_card_can_bear(run: Path) -> None:
    add_stage(run, "quiz", "evaluate", {"samples.md": "zebra\n" * 5000}, makes="report", inputs={"models.0": "judge"})
    assert card(run, "judge").count("zebra\n") == 1000


def test_a_reward_model_is_a_classifier_and_its_policy_is_no_child_of_it(run: Path) -> None:
    _, judge, policy = publish(run, ["policy", "judge", "chat"], owner="me", dry_run=True)
    assert ModelCard(judge.card).data.pipeline_tag == "text-classification"
    assert ModelCard(judge.card).data.base_model == ModelCard(policy.card).data.base_model == ["me/demo-chat"]


def test_every_ancestor_stands_in_the_card_with_its_digest(run: Path) -> None:
    text = card(run, "policy")
    for stage in ("world", "words", "base", "chat", "judge"):
        manifest = Run(run).current(stage).manifest()  # type: ignore[union-attr]
        assert manifest
        assert re.search(rf"^\| {stage} \|.*{manifest['fingerprint']}.*{manifest['digest']}", text, flags=re.MULTILINE)


def test_data_stand_in_the_card_with_size_and_digest(run: Path, tmp_path: Path) -> None:
    text = card(run, "base")
    manifest = Run(run).current("world").manifest()  # type: ignore[union-attr]
    assert manifest
    assert manifest["files"]["artifact/stories.jsonl"]["sha256"] in text
    own, gone = tmp_path / "private folder" / "own.jsonl", tmp_path / "gone.jsonl"
    own.parent.mkdir()
    own.write_text("x")
    config = {"epochs": 7, "data": [{"path": "hub:org/set@abc123:train"}]}
    add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "base"}, config=config, data={"data.0": [own], "data.1": [gone]})
    text = card(run, "chat", license="mit")
    assert "own.jsonl" in text
    assert "private folder" not in text
    assert "no longer there" in text
    assert ModelCard(text).data.datasets == ["org/set"]


def test_settings_hardware_versions_and_the_recipe_stand_in_the_card(run: Path) -> None:
    text = card(run, "base")
    for part in (
        "torch 2.13.0",
        "hours: 0.1",
        "seed: 1",
        "CPU cores: 2",
        "with stages.base.tokens=100",
        "world: {kind: world}",
        '"kind": "pretrain"',
    ):
        assert part in text


def test_the_card_names_no_place_of_this_machine(run: Path, tmp_path: Path) -> None:
    add_stage(
        run,
        "chat",
        "sft",
        model_files("chat"),
        inputs={"model": "base"},
        config={"rule": f"{tmp_path}/rules.py:grade", "list": [f"see {tmp_path}/runs/demo here"]},
        result={"notes": [f"read {run.resolve()}/x"]},
    )
    (run / "recipe.yaml").write_text(f"name: demo\n# from {Path.home()}/work\n")
    text = unescaped(card(run, "chat"))
    assert str(tmp_path) not in text
    assert str(Path.home()) + "/" not in text
    assert "rules.py:grade" in text


def test_the_same_run_gives_the_same_card(run: Path) -> None:
    assert card(run, "policy") == card(run, "policy")


def test_text_of_others_becomes_no_markup_and_no_front_matter(run: Path) -> None:
    harm = {"metrics": {"accuracy": 0.5}, "notes": [EVIL], "tables": [{"title": EVIL, "columns": [EVIL, "n"], "rows": [[EVIL, 1.0]]}]}
    add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "base"}, config={"template": EVIL}, result=harm)
    (run / "recipe.yaml").write_text(f"name: demo\n# ````\n# ```\n{EVIL}\n```\n")
    text = card(run, "chat")
    body = without_fences(text.split("\n---\n", 1)[1])
    assert "<script" not in body
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!\[|(?<!\\)://|(?<!\\)@", body)
    assert "# Head" not in body.replace("\\# Head", "")
    assert body.count("\n## ") == 9
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"
    assert problems(text) == ([], [])


def without_fences(text: str) -> str:
    """The text as a Markdown reader sees it outside code blocks; fails if a block stays open."""
    kept, fence = [], ""
    for line in text.splitlines():
        opening = re.match(r"(`{3,})", line)
        if not fence and opening:
            fence = opening[1]
        elif fence and re.fullmatch(rf"{fence}`*\s*", line):
            fence = ""
        elif not fence:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(["`", "```", "\n", "~~~", "a", "\r", "\x1b"]), max_size=30).map("".join))
def test_a_fence_holds_whatever_is_in_it(text: str) -> None:
    assert without_fences(f"a\n{fenced(text)}\nb") == "a\nb"


@settings(deadline=None)
@given(st.text(max_size=80))
def test_plain_text_is_one_line_without_markup_and_reads_the_same(text: str) -> None:
    line = plain(text)
    assert "\n" not in line
    assert not re.search(r"[<>]|(?<!\\)[`*\[\]|#!@]", line.replace("\\\\", ""))
    assert plain(unescaped(line)) == line


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (1234567, "1,234,567"), (0.123456, "0.1235"), (2000.0, "2,000"), ("a|b", "a\\|b"), (True, "True")]
)
def test_numbers_are_shown_for_people(value: object, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    "text",
    [
        "mailto:a@b.example",
        "www.evil.example",
        "https://evil.example",
        "ftp://x",
        "- item",
        "1. item",
        "12) x",
        "7.",
        "+ x",
        "=====",
        "#12",
        "_x_",
        "~~x~~",
        "$x$",
    ],
)
def test_what_a_reader_would_make_a_link_a_list_or_emphasis_is_escaped(text: str) -> None:
    assert "\\" in plain(text)
    assert unescaped(plain(text)) == text


def test_ordinary_words_stay_readable() -> None:
    text = "-0.5 bytes_per_token 4.17, at 2026-01-01T10:00 (UTC); a-b, it's 50 % = half"
    assert plain(text) == text


def test_every_heading_has_air_around_it(run: Path) -> None:
    for stage in ("words", "policy"):
        body = without_fences(card(run, stage).split("\n---\n", 1)[1])
        assert re.search(r"[^\n]\n#|\n##[^\n]*\n[^\n]", body) is None
        assert "\n\n\n\n" not in body


def test_columns_of_numbers_stand_to_the_right() -> None:
    assert table(["a", "n", "none"], [["x", 1, None], ["y", None, None]]).splitlines()[1] == "| --- | --: | --- |"


def test_bidirectional_and_control_characters_are_made_visible() -> None:
    assert plain("a\u202eb\x00c") == "a\\\\u202eb\\\\u0000c"


def test_a_card_without_data_metrics_or_recipe_stays_whole(run: Path) -> None:
    add_stage(run, "solo", "pretrain", model_files("solo"), result={"metrics": {}}, artifact={"template_digest": None})
    (run / "recipe.yaml").unlink()
    text = card(run, "solo")
    for part in ("made from its data alone", "No data of its own", "was not evaluated", "Once upon a time"):
        assert part in text
    assert problems(text) == ([], [])
    assert "model-index" not in text


def test_an_input_from_outside_the_run_is_named_without_its_folder(run: Path) -> None:
    folder = add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "../secret-place/model"}, config={"epochs": 4})
    assert json.loads((folder.path / "manifest.json").read_text())["inputs"]["model"]["reference"].endswith("model")
    text = unescaped(card(run, "chat"))
    assert "| model | outside the run |" in text
    assert "secret-place" not in text


@pytest.mark.parametrize(
    ("noted", "says"),
    [
        ({"cores": 2, "hardware": {"gpus": 0}}, "at most about 2 Wh: 0.1 h at 10 W for each of 2 CPU cores"),
        ({"cores": 8, "hardware": {"gpus": 0, "threads": 1, "processes": 2}}, "at 10 W for each of 2 CPU cores"),
        (
            {"cores": 8, "hardware": {"gpus": 2}, "gpus": [{"name": "H100", "watts": 700.0}] * 2},
            "at most about 140 Wh: 0.1 h at the power limits of 2 × H100",
        ),
        ({"cores": 8, "hardware": {"gpus": 2}, "gpus": []}, "not estimated: the power of the GPUs was not noted"),
    ],
)
def test_energy_is_estimated_from_hours_and_what_they_were_spent_on(run: Path, noted: dict[str, Any], says: str) -> None:
    [chat] = finished(Run(run), ["chat"])
    manifest = {**chat.manifest, "surroundings": noted}  # the stage took 360 seconds
    assert says in str(facts.energy(replace(chat, manifest=manifest)))
    assert "energy: at most about 2 Wh" in publish(run, ["chat"], dry_run=True)[0].card
