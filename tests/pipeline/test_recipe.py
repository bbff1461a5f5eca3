"""Recipes: everything that is wrong at once, with its line, what was found, what was wanted, and the nearest name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.recipe import load
from pipeline.schema import recipe_schema
from tests.pipeline.conftest import Workshop

Mistakes = Callable[..., list[str]]
GOOD = "name: a\nstages:\n  base: {kind: toy-train, steps: 4}\n"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(mistakes: Mistakes):
    found = mistakes("""\
name: Tiny Chat
sead: 3
hardware: {gpus: many}
stages:
  base:
    kind: toy-trian
  chat:
    kind: toy-train
    model: bese
    stepps: 3
    optimizer: {learning_rate: two}
""")
    assert [line.split(": ")[0] for line in found] == [f"recipe.yaml:{line}" for line in (1, 2, 3, 6, 9, 10, 11)]


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("{kind: toy-train, stepps: 3}", "stages.base.stepps: unknown key; did you mean 'steps'?"),
        ("{kind: toy-trian}", "found 'toy-trian', wanted one of world, arithmetic, corpus, tokenizer, pretrain"),
        ("{kind: toy-trian}", "did you mean 'toy-train'?"),
        ("{steps: 3}", "stages.base.kind: is missing; wanted one of"),
        ("3", "stages.base: found 3, wanted a mapping"),
        (
            "{kind: world, people: 3, promts: 4}",
            "stages.base.promts: unknown key; did you mean 'prompts'? (known: prompts, pairs, documents, chats, people, require, kind)",
        ),
        ("{kind: toy-train, clip: 3}", "stages.base.clip: unknown key; did you mean 'optimizer.clip'? (known: "),
        ("{kind: toy-train, seed: 3}", "stages.base.seed: unknown key; `seed` is said once, for all stages, at the top of the recipe"),
        ("{kind: world, persons: 3}", "stages.base.persons: unknown key (known: pairs, people, prompts, "),
        ("{kind: toy-train, steps: 0}", "stages.base.steps: found 0, wanted greater than 0"),
        ("{kind: toy-train, steps: '3'}", "stages.base.steps: found '3', wanted a whole number; a number in quotes is a text"),
        ("{kind: toy-train, steps: 2.5}", "stages.base.steps: found 2.5, wanted a whole number"),
        ("{kind: toy-train, steps: true}", "stages.base.steps: found true, wanted a whole number"),
        ("{kind: toy-train, optimizer: {learning_rate: 1}}", "stages.base.optimizer.learning_rate: found 1, wanted less than 1"),
        ("{kind: toy-train, optimizer: 3}", "stages.base.optimizer: found 3, wanted a mapping"),
        ("{kind: toy-train, behaviour: wel}", "did you mean 'well'?"),
        ("{kind: toy-train, data: {path: x}}", "wanted a list, such as [{path: x}]"),
        ("{kind: toy-train, data: x.txt}", "stages.base.data: found 'x.txt', wanted a list, such as [{path: x.txt}]"),
        ("{kind: toy-train, data: [x.txt]}", "stages.base.data.0: found 'x.txt', wanted a mapping, such as {path: x.txt}"),
        ("{kind: toy-train, data: [{path:x.txt}]}", "unknown key; a blank is missing behind the colon: path: x.txt"),
        ("{kind: world, people: 99999}", "stages.base: people: found 99999, wanted 2 to "),
        ("{kind: toy-train, data: [{pathh: x}]}", "stages.base.data.0.path: is missing: File, glob or folder"),
        ("{kind: toy-train, require: {loss: {mx: 3}}}", "stages.base.require.loss.mx: unknown key; did you mean 'max'?"),
        ("{kind: toy-exam, models: []}", "stages.base.models: found [], wanted at least 1 of them"),
        (
            "{kind: pretrain, data: [{path: x}], tokens: 3, model: {hidden_size: 255}, tokenizer: ./t}",
            "hidden_size 255 is not a multiple of heads 4",
        ),
        (
            "{kind: pretrain, data: [{path: x}], tokens: 3, model: {layer: 3}}",
            "stages.base.model.layer: unknown key; did you mean 'layers'?",
        ),
        ("{kind: pretrain, data: [{path: x}], tokens: 3}", "stages.base: a new model needs `tokenizer`"),
        ("{kind: sft, model: ./m, data: [{path: x}], adapter: {kind: lora, rnk: 3}}", "did you mean 'rank'?"),
        (
            "{kind: toy-train, data: [{path: x, columns: {massages: turns, group: kind}}]}",
            "stages.base.data.0: no field 'massages' is read; did you mean 'messages'?",
        ),
        (
            "{kind: sft, model: ./m, data: [{path: x}], adapter: lora}",
            "stages.base.adapter: found 'lora', wanted a mapping, such as {kind: lora}",
        ),
        (
            "{kind: sft, model: ./m, data: [{path: x}], adapter: [3]}",
            "stages.base.adapter: found [3], wanted a mapping, such as {kind: lora}",
        ),
        ("{kind: corpus, data: [{path: x}], language: english}", "stages.base.language: found 'english', wanted a list, such as [english]"),
        ("{kind: toy-train, optimizer: 0.1}", "stages.base.optimizer: found 0.1, wanted a mapping (of learning_rate, clip)"),
        ("{kind: tokenizer}", "a new tokenizer needs `data` to train on, or take an `existing` one"),
        ("{kind: toy-train, require: {loss: {}}}", "stages.base.require.loss: a gate needs `min`, `max` or both"),
        ("{kind: toy-train, require: {loss: {min: 2, max: 1}}}", "no value is at least 2 and at most 1"),
        (
            "{kind: toy-train, rewards: [{weight: 2}]}",
            "stages.base.rewards.0: wanted one of `model`, `models`, `rule` and `remote`, found none",
        ),
        ("{kind: toy-train, rewards: [{model: ./m, rule: json}]}", "`rule` and `remote`, found model and rule"),
        ("{kind: toy-train, rewards: [{rule: lenght:5}]}", "stages.base.rewards.0.rule: no rule 'lenght:5'"),
        ("{kind: toy-train, rewards: [{rule: lenght:5}]}", "did you mean 'length'?"),
        (
            "{kind: toy-train, rewards: [{rule: 'length:-5'}]}",
            "rule 'length:-5': found '-5' after the colon, wanted a number of words above 0",
        ),
        ("{kind: toy-train, rewards: [{rule: 'regex:('}]}", "rule 'regex:(': missing )"),
        ("{kind: toy-train, rewards: [{rule: 'exact:x'}]}", "rule 'exact:x': nothing is read after its name"),
        ("{kind: toy-train, rewards: [{rule: 'world:beauty'}]}", "rule 'world:beauty': the world grades correct"),
        (
            "{kind: evaluate, models: [./m], tasks: [{name: a, prompts: [{path: x}], rule: exactly}]}",
            "stages.base.tasks.0.rule: no rule 'exactly'",
        ),
        ("{kind: evaluate, models: [./m]}", "stages.base: nothing to measure"),
        ("{kind: evaluate, models: [./m], text: [{path: x}], rewards: [{rule: json}]}", "rewards score the answers to `tasks`"),
        (
            "{kind: evaluate, models: [./m], tasks: [&t {name: a, prompts: [{path: x}], rule: exact}, *t]}",
            "two tasks are called 'a': one result would hide the other",
        ),
    ],
)
def test_a_mistake_is_told_with_what_was_found_and_what_was_wanted(mistakes: Mistakes, stage: str, sentence: str):
    found = mistakes(f"name: a\nstages:\n  base: {stage}\n")
    assert len([line for line in found if sentence in line and line.startswith("recipe.yaml:3: ")]) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3", "wanted a mapping with `name` and `stages`, found 3"),
        ("", "found null"),
        ("name: a\n", "stages: is missing"),
        ("name: a\nstages: []\n", "stages: found [], wanted a mapping"),
        ("name: a\nstages: {}\n", "stages: found {}, wanted at least 1"),
        (
            "name: ../a\nstages: {base: {kind: toy-train}}\n",
            "name: found '../a', wanted lower-case letters, digits, dots, dashes and underscores, a letter or digit first",
        ),
        ("name: a\nseed: -1\nstages: {base: {kind: toy-train}}\n", "seed: found -1"),
        ("name: a\nstages: {../up: {kind: toy-train}}\n", "stages.../up: found '../up'"),
        ("name: a\nstages: {lock: {kind: toy-train}}\n", "wanted a name that no file of the run directory has"),
        ("name: a\nstages: {report.html: {kind: toy-train}}\n", "wanted a name that no file of the run directory has"),
        ("name: a\nstages: {tokens: {kind: toy-train}}\n", "wanted a name that no file of the run directory has"),
        ("name: a\nhardware: {gpus: -1}\nstages: {base: {kind: toy-train}}\n", "hardware.gpus: found -1"),
        ("name: a\nhardware: {zero: 4}\nstages: {base: {kind: toy-train}}\n", "hardware.zero: found 4, wanted 0, 1, 2, 3 or 'auto'"),
        ("name: a\nhardware: {micro_batch: 0}\nstages: {base: {kind: toy-train}}\n", "hardware.micro_batch: found 0"),
        ("name: a\nname: b\nstages: {base: {kind: toy-train}}\n", "name: written twice"),
        ("name: a\nhardware: {precision: fp8}\nstages: {base: {kind: toy-train}}\n", "wanted 'auto', 'fp32', 'bf16' or 'fp16'"),
    ],
)
def test_the_top_of_a_recipe_is_checked_too(mistakes: Mistakes, text: str, sentence: str):
    assert any(sentence in line for line in mistakes(text)), mistakes(text)


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ("{kind: toy-train, model: bose}", "no stage 'bose' above this one (a causal-lm comes from: base); did you mean 'base'?"),
        ("{kind: toy-train, model: rows}", "'rows' makes a dataset; wanted causal-lm"),
        ("{kind: toy-train, model: last}", "'last' does not stand above this stage"),
        ("{kind: toy-train, model: next}", "'next' does not stand above this stage"),
        ("{kind: toy-train, model: 'hub:name'}", "found 'hub:name', wanted hub:owner/name"),
        ("{kind: toy-train, data: [{stage: base, path: x}]}", "stages.next.data.0.stage: 'base' makes a causal-lm; wanted dataset"),
        ("{kind: toy-train, rewards: [{model: base}]}", "stages.next.rewards.0.model: 'base' makes a causal-lm; wanted reward-model"),
        ("{kind: toy-exam, models: [base, bsae]}", "stages.next.models.1: no stage 'bsae'"),
        ("{kind: toy-train, model: bose, steps: -1}", "no stage 'bose'"),
    ],
)
def test_references_name_stages_above_that_make_what_is_wanted(mistakes: Mistakes, second: str, sentence: str):
    text = f"name: a\nstages:\n  rows: {{kind: toy-data}}\n  base: {{kind: toy-train}}\n  next: {second}\n  last: {{kind: toy-train}}\n"
    assert any(sentence in line and line.startswith("recipe.yaml:5") for line in mistakes(text)), mistakes(text)


@pytest.mark.parametrize("model", ["./folder", "models/base", "/abs/olute", "hub:owner/name", "hub:owner/name@main"])
def test_folders_and_hub_repositories_need_no_stage(mistakes: Mistakes, model: str):
    assert mistakes(f"name: a\nstages:\n  base: {{kind: toy-train, model: '{model}'}}\n") == []


def test_overrides_set_any_field_by_its_path(workshop: Workshop):
    recipe = workshop.recipe(
        "seed=9", "hardware.gpus=0", "stages.chat.optimizer.learning_rate=1e-3", "stages.base.optimizer.clip=2", "stages.exam.models=[chat]",
        "stages.chat.data.0.weight=2", "stages.base.model=", "name=other",
    )  # fmt: skip
    assert recipe.seed == 9
    assert recipe.name == "other"
    assert recipe.hardware.gpus == 0
    assert recipe.stages["chat"].optimizer.learning_rate == 1e-3  # type: ignore[attr-defined]
    assert recipe.stages["base"].optimizer.clip == 2.0  # type: ignore[attr-defined]
    assert recipe.stages["exam"].models == ("chat",)  # type: ignore[attr-defined]
    assert recipe.stages["chat"].data[0].weight == 2.0  # type: ignore[attr-defined]


def test_names_of_stages_may_hold_dots(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("name: a\nstages:\n  base.v2: {kind: toy-train}\n")
    assert load(file, ["stages.base.v2.steps=7"]).stages["base.v2"].steps == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps", "'steps': wanted key=value"),
        ("=3", "wanted key=value"),
        ("stages.bose.steps=3", "no stage has this name (stages: base); did you mean 'base'?"),
        ("stages.base.stepps=3", "'stages.base.stepps=3': stages.base.stepps: unknown key; did you mean 'steps'?"),
        ("stages.base.steps=three", "'stages.base.steps=three': stages.base.steps: found 'three', wanted a whole number"),
        ("stages.base.steps.more=3", "stages.base.steps: is 4, which has no field 'more'"),
        ("stages.base.optimizer.more=3", "'stages.base.optimizer.more=3': stages.base.optimizer.more: unknown key"),
        ("stages.base.data.0.path=x", "'stages.base.data.0.path=x': stages.base.data: found"),
        ("stages.base.steps=[1", "not valid YAML"),
        ("stages.base.optimizer={clip: 1, clip: 2}", "written twice"),
        ("sed=3", "sed: unknown key; did you mean 'seed'?"),
        ("bas.steps=3", "'bas.steps=3': bas: unknown key; did you mean 'stages.base'?"),
        ("stages.base.optimizer.lr=0.1", "stages.base.optimizer.lr: unknown key; did you mean 'learning_rate'? (known: "),
        ("trust_remote_code=true", "trust_remote_code: found true, wanted a list"),
        ("base.steps=3", "'base.steps=3': base: unknown key; 'base' is a stage, whose fields are stages.base.FIELD"),
    ],
)
def test_a_wrong_override_is_told_as_such(mistakes: Mistakes, override: str, sentence: str):
    found = mistakes(GOOD, override)
    assert any(sentence in line for line in found), found


def test_an_index_outside_a_list_is_told(mistakes: Mistakes):
    text = "name: a\nstages:\n  base: {kind: toy-train, data: [{path: x}]}\n"
    assert "wanted an index from 0 to 0" in mistakes(text, "stages.base.data.1.path=y")[0]
    assert "wanted an index" in mistakes(text, "stages.base.data.first.path=y")[0]
    assert "the list is empty" in mistakes(text, "stages.base.data=[]", "stages.base.data.0.path=y")[0]


def test_lines_of_what_an_override_replaced_are_forgotten(mistakes: Mistakes):
    text = "name: a\nstages:\n  base: {kind: toy-train, optimizer: {clip: 1}}\n"
    assert mistakes(text, "stages.base.optimizer={clip: x}")[0].startswith("'stages.base.optimizer={clip: x}': ")


def test_the_schema_knows_every_kind_and_describes_every_field_it_can(tmp_path: Path):
    schema = recipe_schema()
    assert json.loads(json.dumps(schema)) == schema
    stage = schema["properties"]["stages"]["additionalProperties"]
    assert {"toy-train", "sft", "ppo"} <= set(stage["properties"]["kind"]["enum"])
    assert schema["$defs"]["SFT"]["properties"]["epochs"]["description"] == "Passes over the data."
    assert schema["$defs"]["SFT"]["required"][0] == "kind"
    places = [arm["then"]["$ref"] for arm in stage["allOf"]]
    assert all(place.removeprefix("#/$defs/") in schema["$defs"] for place in places)
    assert "Head" not in schema["$defs"]
    assert schema["properties"]["seed"]["description"] == "All randomness of every stage follows from it."
    assert schema["$defs"]["SFTOptimizer"]["properties"]["warmup"]["description"].startswith("Share of the steps")
    assert "description" not in schema["$defs"]["SFTOptimizer"]["properties"]["beta1"]
