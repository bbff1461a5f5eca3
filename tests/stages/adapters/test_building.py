import pytest
import torch

from stages.adapters.building import add_adapter, merged, target_modules
from stages.adapters.config import Lora
from stages.adapters.switching import adapter_off
from stages.contract import StageError
from tests.stages.adapters.made import disturbed

IDS = torch.randint(10, 300, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("targets", ["attention", "all-linear", ("q_proj", "down_proj")])
def test_a_merged_adapter_computes_what_the_adapter_did(llama, targets):
    model = disturbed(add_adapter(llama(), Lora(rank=4, targets=targets), "CAUSAL_LM"))
    expected = model(input_ids=IDS).logits
    plain = llama().eval()(input_ids=IDS).logits
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged(model).eval()(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


def test_only_the_adapter_trains_and_its_start_depends_on_the_seed_alone(llama):
    def start(seed, disturb):
        torch.manual_seed(disturb)
        model = add_adapter(llama(), Lora(rank=4), "CAUSAL_LM", seed=seed)
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    one, same, other = start(1, 5), start(1, 6), start(2, 5)
    assert all("lora_" in name for name in one)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_on_tied_embeddings_is_refused_and_on_untied_ones_not(llama):
    for name in ("embed_tokens", "lm_head"):
        with pytest.raises(StageError, match="shares its weights"):
            target_modules(llama(), (name,))
    assert target_modules(llama(tied_embeddings=False), ("lm_head",)) == ["lm_head"]
    assert "lm_head" not in target_modules(llama(tied_embeddings=False), "all-linear")


def test_an_unknown_target_names_what_there_is(llama):
    with pytest.raises(StageError, match=r"no layer 'qproj'; did you mean '[qkv]_proj'\? \(layers: .*q_proj"):
        target_modules(llama(), ("qproj",))


def test_a_reward_models_score_head_trains_beside_the_adapter(llama, base_folder):
    from stages.contract import Hardware
    from stages.core.models import load_reward_model

    model = add_adapter(load_reward_model(base_folder, Hardware(gpus=0)), Lora(rank=4), "SEQ_CLS")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("score" in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained and "score" in name:
                parameter.fill_(0.5)
    model = disturbed(model)
    model.config.pad_token_id = 0
    expected = model(input_ids=IDS).logits
    torch.testing.assert_close(merged(model).eval()(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "more",
    [{"rslora": True}, {"dora": True}, {"init": "gaussian"}, {"init": "orthogonal"}, {"init": "pissa"}, {"init": "olora"}],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_every_sort_of_lora_starts_as_its_base_and_merges_to_what_it_was(llama, more):
    model = add_adapter(llama(), Lora(rank=4, **more), "CAUSAL_LM")
    torch.testing.assert_close(model.eval()(input_ids=IDS).logits, llama().eval()(input_ids=IDS).logits, rtol=0, atol=1e-4)
    model = disturbed(model)
    expected = model(input_ids=IDS).logits
    torch.testing.assert_close(merged(model).eval()(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


def test_whole_layers_may_be_kept_with_an_adapter(llama):
    model = add_adapter(llama(tied_embeddings=False), Lora(rank=4, modules_to_save=("lm_head",)), "CAUSAL_LM")
    assert any("lm_head" in name for name, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(StageError, match=r"adapter.modules_to_save: the model has no layer 'embed_token'; did you mean 'embed_tokens'"):
        add_adapter(llama(), Lora(rank=4, modules_to_save=("embed_token",)), "CAUSAL_LM")


@pytest.mark.parametrize("named", [("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head", "norm")])
def test_embeddings_that_are_the_head_too_are_kept_as_one_matrix(llama, named):
    """Whichever of the two is named: trained once, merged into both, and both give way to the base where the adapter is off."""
    model = disturbed(add_adapter(llama(), Lora(rank=4, modules_to_save=named), "CAUSAL_LM"))
    trained = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    assert trained == {"embed_tokens", *{"norm"} & set(named)}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    expected = model(input_ids=IDS).logits
    with adapter_off(model):
        assert torch.equal(model(input_ids=IDS).logits, llama().eval()(input_ids=IDS).logits)
    whole = merged(model).eval()
    assert whole.get_input_embeddings().weight is whole.get_output_embeddings().weight
    assert whole.config.tie_word_embeddings
    torch.testing.assert_close(whole(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


def test_a_regex_matches_whole_names_and_one_that_matches_none_is_told(llama):
    found = target_modules(llama(), r"regex:model\.layers\.1\..*q_proj")
    assert found == ["model.layers.1.self_attn.q_proj"]
    again = add_adapter(
        add_adapter(llama(), Lora(rank=2), "CAUSAL_LM", name="first"), Lora(rank=2, targets="attention"), "CAUSAL_LM", name="second"
    )
    assert {name.rsplit(".", 3)[-3] for name, p in again.named_parameters() if ".second." in name} == {"lora_A", "lora_B"}
    with pytest.raises(StageError, match="no layer's whole name matches 'nothing'"):
        target_modules(llama(), "regex:nothing")
    with pytest.raises(StageError, match="shares its weights"):
        target_modules(llama(), r"regex:.*lm_head")


def test_lora_plus_lets_b_learn_at_a_multiple_of_the_rate(llama):
    from stages.core.config import Optimizer
    from stages.core.schedules import adamw

    model = add_adapter(llama(), Lora(rank=4, plus_ratio=16.0), "CAUSAL_LM")
    groups = adamw([model], Optimizer(learning_rate=1e-3)).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3), name


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False), (True, True)])
def test_a_stack_with_dora_begins_where_the_first_ended_and_merges_as_a_whole(llama, first, second):
    model = disturbed(add_adapter(llama(), Lora(rank=4, dora=first), "CAUSAL_LM", name="first"), "first")
    before = model(input_ids=IDS).logits
    model = add_adapter(model, Lora(rank=4, dora=second), "CAUSAL_LM", name="second").eval()
    torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=0, atol=1e-5)
    expected = disturbed(model, "second")(input_ids=IDS).logits
    torch.testing.assert_close(merged(model).eval()(input_ids=IDS).logits, expected, rtol=0, atol=1e-4)


def test_prompt_tuning_starts_as_the_words_it_is_given(llama, tokenizer):
    from data.errors import DataError
    from stages.adapters.config import Prompt

    model = add_adapter(llama(), Prompt(tokens=5, text="the cat"), "CAUSAL_LM", tokenizer=tokenizer)
    ids = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    expected = model.get_input_embeddings().weight[(ids * 5)[:5]]
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, expected)
    with pytest.raises(DataError, match="no tokenizer"):
        add_adapter(llama(), Prompt(tokens=5, text="the cat"), "CAUSAL_LM")
