"""Identity is what is computed, and nothing else."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RecipeError
from pipeline.identity import canonical_json, identities, pinned
from tests.pipeline.conftest import Workshop

CANONICAL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(CANONICAL)
def test_canonical_text_does_not_depend_on_the_order_of_keys(value: Any):
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in reversed(value.items())}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    assert canonical_json(value) == canonical_json(turned(value))


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("x"), (1, 2), {1: 2}, {"a": {3, 4}}, b"x", object(), 1j])
def test_what_has_no_canonical_form_raises(value: object):
    with pytest.raises((TypeError, ValueError)):
        canonical_json({"a": [value]})


def test_changing_a_setting_changes_the_stage_and_those_that_take_from_it(workshop: Workshop):
    before, after = workshop.fingerprints(), workshop.fingerprints("stages.base.optimizer.clip=0.5")
    assert {name for name in before if before[name] != after[name]} == {"base", "chat", "exam"}


@pytest.mark.parametrize(
    "override",
    [
        "hardware.gpus=0",
        "hardware.micro_batch=4",
        "checkpoints.every_steps=3",
        "stages.base.behaviour=fail",
        "stages.base.require={loss: 3}",
        "name=other",
        "track=[tensorboard, wandb]",
    ],
)
def test_how_a_run_is_carried_out_bears_no_identity(workshop: Workshop, override: str):
    assert workshop.fingerprints(override) == workshop.fingerprints()


def test_the_seed_bears_identity_everywhere(workshop: Workshop):
    before, after = workshop.fingerprints(), workshop.fingerprints("seed=6")
    assert all(before[name] != after[name] for name in before)


def test_a_default_written_out_changes_nothing(workshop: Workshop):
    assert (
        workshop.fingerprints("stages.base.steps=4", "stages.base.optimizer={learning_rate: 0.1}", "stages.rows.rows=3")
        == workshop.fingerprints()
    )


def test_a_higher_version_is_another_stage(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from tests.pipeline.toy import Train

    before = workshop.fingerprints()
    recipe = workshop.recipe()
    monkeypatch.setattr(type(recipe.stages["base"]), "version", Train.version + 1)
    after = {name: identity.fingerprint for name, identity in identities(recipe).items()}
    assert after["rows"] == before["rows"]
    assert after["base"] != before["base"]


def test_local_data_enters_by_content_and_not_by_name(workshop: Workshop):
    before = workshop.fingerprints()
    (workshop.root / "chats.jsonl").rename(workshop.root / "talks.jsonl")
    assert workshop.fingerprints("stages.chat.data.0.path=talks.jsonl") == before
    with (workshop.root / "talks.jsonl").open("a") as stream:
        stream.write('{"text": "one more"}\n')
    after = workshop.fingerprints("stages.chat.data.0.path=talks.jsonl")
    assert after["base"] == before["base"]
    assert after["chat"] != before["chat"]


def test_paths_start_from_the_recipe_wherever_the_command_runs(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    before = workshop.fingerprints()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert workshop.fingerprints() == before


def model_folder(root: Path, architecture: str = "LlamaForCausalLM") -> Path:
    folder = root / "model"
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_local_model_enters_by_content(workshop: Workshop):
    folder = model_folder(workshop.root)
    override = "stages.base.model=./model"
    before = workshop.fingerprints(override)["base"]
    folder.rename(workshop.root / "moved")
    assert workshop.fingerprints("stages.base.model=./moved")["base"] == before
    (workshop.root / "moved" / "model.safetensors").write_bytes(b"heights")
    assert workshop.fingerprints("stages.base.model=./moved")["base"] != before


def test_everything_that_cannot_be_found_is_told_at_once_with_its_line(workshop: Workshop):
    with pytest.raises(RecipeError) as caught:
        identities(
            workshop.recipe("stages.base.model=./modl", "stages.chat.rewards=[{rule: 'no.py:f'}]", "stages.chat.data.0.path=chat.jsonl")
        )
    text = str(caught.value)
    assert "stages.base.model: there is no folder" in text
    assert "no data at 'chat.jsonl' (did you mean 'chats.jsonl'?)" in text
    assert "there is no file" in text
    assert len(caught.value.problems) == 3


def test_a_folder_of_links_enters_by_what_they_point_to(workshop: Workshop):
    """The Hub's cache is made of links."""
    folder = workshop.root / "model"
    model_folder(workshop.root).rename(workshop.root / "blobs")
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(workshop.root / "blobs" / name)
    before = workshop.fingerprints("stages.base.model=./model")
    (workshop.root / "blobs/model.safetensors").write_bytes(b"other weights")
    assert workshop.fingerprints("stages.base.model=./model")["base"] != before["base"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: (root / "model").mkdir(), "is empty"),
        (lambda root: model_folder(root, "LlamaForSequenceClassification"), "holds a reward-model; wanted causal-lm"),
        (lambda root: (model_folder(root) / "config.json").write_text("{"), "cannot be read"),
        (lambda root: [(root / "model").mkdir(), (root / "model/adapter_config.json").write_text("{}")], "an adapter without its model"),
        (lambda root: [(root / "model").mkdir(), (root / "model/tokenizer.json").write_text("{}")], "holds a tokenizer"),
        (lambda root: [(root / "model").mkdir(), (root / "model/rows.jsonl").write_text("{}")], "holds a dataset"),
        (lambda root: (root / "model/artifact").mkdir(parents=True), "its model is in"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(workshop: Workshop, make: Any, sentence: str):
    make(workshop.root)
    with pytest.raises(RecipeError, match=sentence):
        identities(workshop.recipe("stages.base.model=./model"))


def test_hub_repositories_enter_by_the_commit_that_the_run_settled_on(workshop: Workshop):
    pins = {"model a/b@main": "c" * 40, "dataset a/b": "d" * 40}
    assert pinned("model", "hub:a/b@main", pins) == f"hub:a/b@{'c' * 40}"
    assert pinned("dataset", "hub:a/b:english:train", pins) == f"hub:a/b@{'d' * 40}:english:train"
    assert pinned("model", "hub:a/b", pins) == "hub:a/b"
    recipe = workshop.recipe("stages.base.model=hub:a/b@main")
    assert identities(recipe)["base"].fingerprint != identities(recipe, pins)["base"].fingerprint


def test_a_name_as_the_hub_has_it_is_told_how_to_write_it(workshop: Workshop):
    for written, told in (("meta-llama/Llama-3", "; the Hub repository is hub:meta-llama/Llama-3"), ("./meta/Llama", ""), ("a/b/c", "")):
        with pytest.raises(RecipeError) as missing:
            workshop.fingerprints(f"stages.chat.model={written}")
        assert str(missing.value).partition("there is no folder ")[2] == f"{workshop.root / written}{told}"


def test_a_path_that_begins_with_a_stages_name_is_told_how_its_data_are_written(workshop: Workshop):
    with pytest.raises(
        RecipeError, match=r"no data at 'rows/rows\.jsonl' .*; 'rows' is a stage, whose data are written \{stage: rows, path: rows\.jsonl\}"
    ):
        identities(workshop.recipe("stages.chat.data.0.path=rows/rows.jsonl"))
