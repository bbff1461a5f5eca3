import pytest
import torch

from stages.adapters.building import add_adapter, merged, target_modules
from stages.adapters.config import Lora
from stages.contract import StageError


def disturbed(model):
    """An adapter that does something."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("targets", ["attention", "all-linear", ("q_proj", "down_proj")])
def test_a_merged_adapter_computes_what_the_adapter_did(llama, targets):
    ids = torch.randint(10, 300, (2, 9))
    model = disturbed(add_adapter(llama(), Lora(rank=4, targets=targets), "CAUSAL_LM"))
    expected = model(input_ids=ids).logits
    plain = llama().eval()(input_ids=ids).logits
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged(model).eval()(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


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
    with pytest.raises(StageError, match=r"no layer 'qproj'.*q_proj"):
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
    ids = torch.randint(10, 300, (2, 9))
    expected = model(input_ids=ids).logits
    torch.testing.assert_close(merged(model).eval()(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
