"""Adapters share a base, and a switch changes what acts and nothing of what trains."""

import pytest
import torch

from stages.adapters.building import add_adapter, merged, parameters_of, train_only
from stages.adapters.config import IA3, Lora, Prefix, Prompt
from stages.adapters.prompts import hidden_states
from stages.adapters.switching import active, active_adapters, adapter_off, frozen_twin, trained_adapter
from tests.stages.adapters.made import disturbed

IDS = torch.arange(10, 19)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def states(model):
    with torch.no_grad():
        return hidden_states(model, model.get_decoder(), IDS)


def two(llama, one=None, other=None):
    """A frozen adapter `first` and one in training, `second`."""
    model = disturbed(add_adapter(llama(), one or Lora(rank=4), "CAUSAL_LM", name="first"), "first")
    return disturbed(add_adapter(model, other or Lora(rank=2, targets="attention"), "CAUSAL_LM", name="second"), "second").eval()


def test_a_new_adapter_leaves_the_earlier_one_on_and_frozen(llama):
    model = disturbed(add_adapter(llama(), Lora(rank=4), "CAUSAL_LM", name="first"), "first").eval()
    before = logits(model)
    model = add_adapter(model, Lora(rank=2), "CAUSAL_LM", name="second").eval()
    assert torch.equal(logits(model), before)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(parameters_of(model, "second"))
    assert (active_adapters(model), trained_adapter(model)) == (["first", "second"], "second")


@pytest.mark.parametrize("gradient", [True, False])
def test_switched_off_the_model_is_what_it_was_before_and_no_flag_has_changed(llama, gradient):
    model, one = two(llama), disturbed(add_adapter(llama(), Lora(rank=4), "CAUSAL_LM", name="first"), "first").eval()
    for parameter in parameters_of(model, "first").values():
        parameter.requires_grad_(gradient)
    flags, both = [p.requires_grad for p in model.parameters()], logits(model)
    with adapter_off(model):
        assert torch.equal(logits(model), logits(one))
        with active(model, []):
            assert torch.equal(logits(model), logits(llama().eval()))
    assert torch.equal(logits(model), both)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert (both - logits(one)).abs().max() > 1e-3


def test_a_switch_is_undone_by_an_error_too_and_an_unknown_name_is_told(llama):
    model = two(llama)
    with pytest.raises(ZeroDivisionError), active(model, ["first"]):
        raise ZeroDivisionError
    assert active_adapters(model) == ["first", "second"]
    with pytest.raises(KeyError, match="no adapter 'c'"), active(model, ["c"]):
        pass


@pytest.mark.parametrize(
    "config", [Lora(rank=4), Lora(rank=4, dora=True), IA3(), Prefix(tokens=3), Prompt(tokens=3)], ids=lambda c: c.label
)
def test_a_frozen_twin_stays_what_the_adapter_was(llama, config):
    model = disturbed(add_adapter(llama(), config, "CAUSAL_LM", name="first"), "first").eval()
    before, flags = states(model), {name for name, p in model.named_parameters() if p.requires_grad}
    frozen_twin(model, "first", "before")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == flags
    assert torch.equal(states(model), before)
    disturbed(model, "first", seed=2)
    assert (states(model) - before).abs().max() > 1e-4
    with active(model, ["before"]):
        assert torch.equal(states(model), before)
    assert active_adapters(model) == ["first"]


def test_gradients_reach_the_adapter_that_trains_and_no_other(llama):
    model = two(llama)
    model(input_ids=IDS).logits.sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == set(parameters_of(model, "second"))
    train_only(model, "first", ["first", "second"])
    model.zero_grad(set_to_none=True)
    model(input_ids=IDS).logits.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(parameters_of(model, "first"))


def test_a_stack_is_merged_as_a_whole(llama):
    model = two(llama)
    expected = logits(model)
    torch.testing.assert_close(logits(merged(model).eval()), expected, rtol=0, atol=1e-5)
