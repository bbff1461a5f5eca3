"""Adapters have the parameters that peft gives them."""

from typing import Any

import pytest

from pipeline.errors import RecipeError
from pipeline.estimate.adapters import trainable
from pipeline.estimate.shapes import Shape
from stages.adapters.config import settings_of

SHAPE = Shape(vocabulary=48, hidden=16, layers=2, heads=4, kv_heads=2, head_size=4, mlp=40, context=32)
ADAPTERS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 3},
    {"kind": "lora", "rank": 3, "dora": True},
    {"kind": "lora", "rank": 2, "targets": "attention"},
    {"kind": "lora", "rank": 2, "targets": ["q_proj", "down_proj"]},
    {"kind": "lora", "rank": 2, "targets": "regex:.*layers\\.1.*(up|o)_proj"},
    {"kind": "lora", "rank": 2, "modules_to_save": ["lm_head"]},
    {"kind": "ia3"},
    {"kind": "prefix", "tokens": 5},
    {"kind": "prefix", "tokens": 5, "projection": True, "hidden_size": 7},
    {"kind": "p-tuning", "tokens": 5, "hidden_size": 9},
    {"kind": "prompt", "tokens": 5},
]


def test_lora_is_counted_as_by_hand():
    inputs_and_outputs = (16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 40)
    assert trainable(settings_of({"kind": "lora", "rank": 3}), SHAPE) == 2 * 3 * inputs_and_outputs


@pytest.mark.parametrize("head", ["words", "score"])
@pytest.mark.parametrize("settings", ADAPTERS, ids=str)
def test_each_kind_has_as_many_parameters_as_peft_trains(settings: dict[str, Any], head: Any):
    import transformers

    from stages.adapters.building import add_adapter, counted

    if head == "score" and "modules_to_save" in settings:
        pytest.skip("a score has no output layer")
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_labels=1,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    kind = transformers.AutoModelForCausalLM if head == "words" else transformers.AutoModelForSequenceClassification
    adapter = settings_of(settings)
    model = add_adapter(kind.from_config(config), adapter, "CAUSAL_LM" if head == "words" else "SEQ_CLS")
    assert trainable(adapter, SHAPE, head) == counted(model)[0]


def test_targets_that_are_not_there_are_refused():
    with pytest.raises(RecipeError, match=r"adapter.targets: the model has no layer"):
        trainable(settings_of({"kind": "lora", "targets": ["query"]}), SHAPE)
