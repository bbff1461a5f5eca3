"""Packed documents never see one another. The oracle is each document alone, with stock attention."""

import pytest
import torch

from stages.core import attention

LENGTHS = (5, 9, 9, 1, 7)


@pytest.fixture
def packed(llama):
    """A model, packed ids and positions, and where the documents lie."""
    ids = torch.randint(10, 300, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    return llama().eval(), ids, positions


@pytest.mark.parametrize("cache", [False, True])
def test_packed_logits_are_those_of_each_document_alone(packed, cache):
    model, ids, positions = packed
    together = model(input_ids=ids, position_ids=positions, use_cache=cache).logits
    model.set_attn_implementation("sdpa")
    alone = torch.cat([model(input_ids=document, use_cache=False).logits for document in ids.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_one_document_with_respect_to_another_is_exactly_zero(packed, checkpointing):
    model, ids, positions = packed
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=positions, use_cache=False).logits
    start = sum(LENGTHS[:2])
    (gradient,) = torch.autograd.grad(logits[:, start : start + LENGTHS[2]].square().sum(), embedded)
    own = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    own[start : start + LENGTHS[2]] = True
    assert gradient[0, own].abs().sum() > 0
    assert torch.equal(gradient[0, ~own], torch.zeros_like(gradient[0, ~own]))


def test_several_packed_rows_are_isolated_each_in_its_own_way(llama):
    model = llama().eval()
    ids = torch.randint(10, 300, (2, 10), generator=torch.Generator().manual_seed(0))
    positions = torch.stack([torch.cat([torch.arange(4), torch.arange(6)]), torch.arange(10)])
    together = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    parts = (ids[:1, :4], ids[:1, 4:], ids[1:])
    a, b, c = (model(input_ids=part, use_cache=False).logits for part in parts)
    torch.testing.assert_close(together, torch.cat([torch.cat([a, b], dim=1), c]), rtol=0, atol=1e-5)


def test_generation_and_padding_are_as_with_stock_attention(llama):
    model = llama().eval()
    ids = torch.randint(10, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    answers = []
    for name in (attention.NAME, "sdpa"):
        model.set_attn_implementation(name)
        answers.append(model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False))
    assert torch.equal(*answers)


def test_document_lengths_are_read_from_positions():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    assert attention.document_lengths(positions, 1) == [[3, 2, 1]]
    assert attention.document_lengths(positions, 2) == [[3, 2, 1], [3, 2, 1]]
    assert attention.document_lengths(torch.arange(6).unsqueeze(0), 1) is None


def test_a_sliding_window_still_limits_what_is_seen():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        sliding_window=4, attn_implementation=attention.NAME,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    ids = torch.randint(50, (1, 12))
    ours = model(input_ids=ids, use_cache=False).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(ours, model(input_ids=ids, use_cache=False).logits)


@pytest.mark.parametrize(("generation", "runs"), [(7, False), (8, True), (9, True)])
def test_the_flash_call_is_made_where_torch_has_it_and_not_wherever_fp16_is_fast(monkeypatch, generation, runs):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 5))
    assert attention.has_flash.__wrapped__(torch.device("cuda", 0)) is runs
    assert not attention.has_flash(torch.device("cpu"))
