import pytest
import torch
from transformers import LlamaForSequenceClassification

from stages.adapters.building import _names
from stages.adapters.config import Lora
from stages.adapters.layers import Decoder, name_problems

UNTIED = Decoder(layers=2, tied=False)


@pytest.mark.parametrize("head", ["lm_head", "score"])
def test_the_names_that_are_known_beforehand_are_those_of_the_model(llama, head):
    model = llama()
    if head == "score":
        model = LlamaForSequenceClassification(model.config)
    known = Decoder(model.config.num_hidden_layers, tied=True, head=head)
    assert sorted(known.adaptable()) == sorted(_names(model, torch.nn.Linear, torch.nn.Embedding))
    every = {name.rsplit(".", 1)[-1] for name in _names(model, torch.nn.Module)}
    assert set(known.others()) <= every


@pytest.mark.parametrize(
    ("adapter", "model", "says"),
    [
        (
            Lora(targets=("q_proj", "v_prj")),
            UNTIED,
            "targets.1: the model has no layer 'v_prj'; did you mean 'v_proj'? (layers: down_proj,",
        ),
        (
            Lora(targets=r"regex:.*attn\.q"),
            UNTIED,
            r"targets: no layer's whole name matches '.*attn\.q' (names are like model.layers.0.self",
        ),
        (Lora(targets=("lm_head",)), Decoder(2, tied=True), "targets.0: 'lm_head' shares its weights with another layer"),
        (Lora(targets=("lm_head",)), Decoder(2, tied=True, head="score"), "targets.0: the model has no layer 'lm_head'"),
        (
            Lora(modules_to_save=("embed_token",)),
            UNTIED,
            "modules_to_save.0: the model has no layer 'embed_token'; did you mean 'embed_tokens'",
        ),
    ],
)
def test_a_name_that_the_model_does_not_have_is_told_with_the_nearest(adapter, model, says):
    [(field, text)] = name_problems(adapter, model)
    assert f"{field}: {text}".startswith(says)


@pytest.mark.parametrize(
    "named", [{}, {"targets": "attention"}, {"targets": ("q_proj", "lm_head")}, {"targets": r"regex:.*\.[01]\..*q_proj"}]
)
def test_right_names_pass(named):
    assert list(name_problems(Lora(**named, modules_to_save=("embed_tokens", "norm")), UNTIED)) == []
