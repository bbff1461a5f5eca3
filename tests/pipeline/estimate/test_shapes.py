"""Parameters by counting: numbers done by hand, published ones, and transformers' own models without weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeError
from pipeline.estimate.shapes import Shape, of_config, of_folder, of_settings
from stages.core.config import Llama

TINY = Shape(vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, context=8)
LLAMA = {
    "7B": ((32_000, 4096, 32, 32, 32, 128, 11_008, 2048), 6_738_415_616),
    "65B": ((32_000, 8192, 80, 64, 64, 128, 22_016, 2048), 65_285_660_672),
    "2-70B": ((32_000, 8192, 80, 64, 8, 128, 28_672, 4096), 68_976_648_192),
    "3-8B": ((128_256, 4096, 32, 32, 8, 128, 14_336, 8192), 8_030_261_248),
    "3-70B": ((128_256, 8192, 80, 64, 8, 128, 28_672, 8192), 70_553_706_496),
}
"""Parameters as the models' safetensors on the Hub have them."""
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaConfig", {"num_key_value_heads": 2}),
    ("LlamaConfig", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("LlamaConfig", {"head_dim": 24}),
    ("MistralConfig", {"num_key_value_heads": 2}),
    ("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 32}),
]


def test_a_tiny_model_is_counted_as_by_hand():
    layer = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 6 + 2 * 4  # q, k, v, o, the MLP, two norms
    assert TINY.layer == layer == 128
    assert TINY.decoder == 10 * 4 + 2 * 128 + 4
    assert TINY.parameters() == 300 + 40
    assert (TINY.parameters("score"), TINY.parameters("value")) == (304, 305)


@pytest.mark.parametrize(("shape", "parameters"), LLAMA.values(), ids=LLAMA)
def test_known_models_have_the_parameters_that_they_are_published_with(shape: tuple[int, ...], parameters: int):
    assert Shape(*shape).parameters() == parameters


@pytest.mark.parametrize(("kind", "settings"), CONFIGS)
def test_what_config_json_says_gives_exactly_transformers_parameters(kind: str, settings: dict[str, Any], tmp_path: Path):
    import torch
    import transformers

    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, kind)(**sizes, max_position_embeddings=128, **settings)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        words = transformers.AutoModelForCausalLM.from_config(config)
        config.num_labels = 1
        scores = transformers.AutoModelForSequenceClassification.from_config(config)
    shape = of_folder(tmp_path)
    assert shape.parameters() == words.num_parameters()
    assert shape.parameters("score") == scores.num_parameters()


@pytest.mark.parametrize(
    "settings",
    [{}, {"hidden_size": 96, "heads": 4, "kv_heads": 2, "layers": 3}, {"tied_embeddings": False, "mlp_size": 100}],
)
def test_the_recipes_shape_has_exactly_the_parameters_of_the_model_that_is_built(settings: dict[str, Any]):
    import torch

    from stages.core.models import new_llama

    model = Llama(**{"hidden_size": 64, "layers": 2, "context": 32, **settings})

    class Tokens:
        bos_token_id = eos_token_id = pad_token_id = 0

        def __len__(self) -> int:
            return 77

    with torch.device("meta"):
        built = new_llama(model, Tokens(), seed=1)
    assert of_settings(model, 77).parameters() == built.num_parameters()


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"model_type: found 'qwen4', wanted .*llama.*did you mean 'qwen"):
        of_config({"model_type": "qwen4"}, "x/config.json")


def test_a_missing_number_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4}))
    with pytest.raises(RecipeError, match=r"config.json: num_attention_heads is missing"):
        of_folder(tmp_path)
    with pytest.raises(RecipeError, match=r"cannot be read"):
        of_folder(tmp_path / "nowhere")
