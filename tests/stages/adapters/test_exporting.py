"""Exports hold what the stages trained: whole, in other dtypes, or several adapters as one, checked against sums made by hand."""

import pytest
import torch
from safetensors.torch import load_file

from data.errors import DataError
from stages.adapters.combining import updates
from stages.adapters.exporting import compare, export
from stages.adapters.tasks import Comparison, Export, Part
from stages.contract import Artifact
from stages.core.models import load_causal_lm
from stages.core.parity import distance, stated_probe
from tests.stages.adapters.chain import Chain
from tests.stages.adapters.test_matrix import CPU

LORA = {"kind": "lora", "rank": 4, "targets": "attention", "hand_over": "stack"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    made = Chain(tmp_path_factory.mktemp("run"))
    made.run("one", "sft", adapter=LORA)
    made.run("two", "sft", adapter={**LORA, "rank": 2, "rslora": True}, optimizer={"learning_rate": 3e-3})
    made.run("three", "sft", model="one", adapter=LORA)
    made.run("kept", "sft", adapter={**LORA, "modules_to_save": ["embed_tokens"]})
    made.run("words", "sft", adapter={"kind": "prompt", "tokens": 3, "hand_over": "continue"})
    made.run("judge", "reward", adapter=LORA)
    made.run("whole", "sft")
    return made


def part(chain, name, weight=1.0):
    return Part(name=name, folder=chain.artifact(name), weight=weight)


@pytest.mark.parametrize("name", ["one", "two", "three", "kept", "whole"])
def test_a_merged_export_is_a_plain_model_that_says_what_the_stage_said(chain, name, tmp_path):
    from transformers import AutoModelForCausalLM

    export(Export(parts=(part(chain, name),), out=tmp_path / "out"))
    assert distance(stated_probe(chain.artifact(name)), AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()) <= 1e-4
    assert not list((tmp_path / "out").glob("adapter*"))


def test_a_merged_reward_model_keeps_its_head_and_statistics(chain, tmp_path):
    from transformers import AutoModelForSequenceClassification

    export(Export(parts=(part(chain, "judge"),), out=tmp_path / "out"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert distance(stated_probe(chain.artifact("judge")), model) <= 1e-4
    assert chain.says("judge").reward_std == Artifact.model_validate_json((tmp_path / "out/artifact.json").read_text()).reward_std


def test_half_precision_and_shards_are_as_asked(chain, tmp_path):
    export(Export(parts=(part(chain, "one"),), out=tmp_path / "out", dtype="bf16", shard_size="20KB"))
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 1
    assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {torch.bfloat16}


def summed(chain, weights):
    """The base's weights with the weighted updates added by hand, from the adapters' files."""
    total = load_file(chain.base / "model.safetensors")
    for name, weight in weights.items():
        own = chain.says(name).adapters.settings[0]
        scale = own["alpha"] / (own["rank"] ** 0.5 if own["rslora"] else own["rank"])
        given = load_file(chain.artifact(name) / "adapter_model.safetensors")
        for key in given:
            if key.endswith("lora_A.weight"):
                place = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
                total[place] = total[place] + weight * scale * given[key.replace("lora_A", "lora_B")] @ given[key]
    return total


def test_a_linear_combination_is_the_weighted_sum_of_the_updates(chain, tmp_path):
    weights = {"two": -1.5, "one": 0.7}  # peft takes the settings of the first: rsLoRA's root would scale the sum once more
    parts = tuple(part(chain, name, weight) for name, weight in weights.items())
    export(Export(parts=parts, out=tmp_path / "out"))
    expected = summed(chain, weights)
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def test_a_combined_adapter_is_an_artifact_of_its_own_that_a_stage_can_begin_with(chain, tmp_path):
    parts = (part(chain, "one"), part(chain, "two"))
    export(Export(parts=parts, out=tmp_path / "both", merge=False))
    export(Export(parts=parts, out=tmp_path / "whole"))
    assert distance(stated_probe(tmp_path / "whole"), load_causal_lm(tmp_path / "both", CPU)) <= 1e-4
    assert (tmp_path / "both/adapter_model.safetensors").exists()


@pytest.mark.parametrize("how", ["ties", "dare-linear", "dare-ties"])
def test_ties_and_dare_give_the_same_twice_and_with_all_kept_what_they_say(chain, how, tmp_path):
    parts = (part(chain, "one"), part(chain, "two"))
    for name in ("first", "again"):
        export(Export(parts=parts, out=tmp_path / name, combine=how, density=0.6, merge=False))
    first, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    if how == "dare-linear":  # nothing dropped: the plain sum, whose rank is no more than the parts' together
        export(Export(parts=parts, out=tmp_path / "all", combine=how, density=1.0))
        export(Export(parts=parts, out=tmp_path / "sum"))
        one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("all", "sum"))
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=1e-4)


def test_adapters_are_compared_by_size_and_angle(chain):
    done = compare(Comparison(parts=(part(chain, "one"), part(chain, "two"), part(chain, "one"))))
    rows = [row[3:] for row in done.rows]
    assert rows[0][0] == rows[2][0] > 0
    assert [rows[n][n + 1] for n in range(3)] == [pytest.approx(1.0)] * 3
    assert rows[0][3] == pytest.approx(1.0)
    assert rows[0][2] == rows[1][1] < 0.99


@pytest.mark.parametrize(
    ("names", "merge", "told"),
    [
        (("words",), True, "virtual tokens are no weights"),
        (("one", "whole"), False, "'whole' is a whole model"),
        (("one", "three"), False, "'three' is a stack of 2 adapters"),
        (("one", "words"), False, "'words' is a prompt adapter"),
        (("whole",), False, "a whole model already"),
        (("one", "kept"), False, r"'kept' keeps embed_tokens as a whole \(modules_to_save\)"),
    ],
)
def test_what_cannot_be_exported_is_told(chain, names, merge, told, tmp_path):
    with pytest.raises(DataError, match=told):
        export(Export(parts=tuple(part(chain, name) for name in names), out=tmp_path / "out", merge=merge))
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_another_base_is_refused_by_its_digest(chain, tmp_path):
    other = Chain(tmp_path)
    weights = load_file(other.base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    from safetensors.torch import save_file

    save_file(weights, other.base / "model.safetensors", metadata={"format": "pt"})
    other.run("one", "sft", adapter=LORA)
    with pytest.raises(DataError, match="another base than 'one'"):
        export(Export(parts=(part(chain, "one"), part(other, "one")), out=tmp_path / "out"))
    save_file(load_file(chain.base / "model.safetensors"), other.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"another base than .*weights there are not those"):
        load_causal_lm(other.artifact("one"), CPU)


def test_updates_are_what_an_adapter_adds(llama):
    from stages.adapters.building import add_adapter
    from stages.adapters.config import Lora
    from tests.stages.adapters.made import disturbed

    model = disturbed(add_adapter(llama(), Lora(rank=2, alpha=6.0, targets=("q_proj",)), "CAUSAL_LM"))
    found = updates(model, "default")
    assert len(found) == 2
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    expected = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(next(iter(found.values())), expected)
