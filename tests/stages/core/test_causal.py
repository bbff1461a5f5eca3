"""The loss of packed, cut and accumulated batches is that of plain documents."""

import numpy as np
import pytest
import torch

from stages.contract import StageError
from stages.core.causal import teach, total_nats, untaught
from stages.core.rows import Document, PackedRows, collate


@pytest.fixture
def documents():
    random = np.random.default_rng(1)
    return [Document(random.integers(10, 300, length).astype(np.int32), random.random(length) < 0.5) for length in (4, 11, 11, 6)]


def slow_nats(model, documents):
    """Each document alone, all logits, one token after the other."""
    total = torch.zeros((), dtype=torch.float64)
    for document in documents:
        ids = torch.as_tensor(document.ids, dtype=torch.int64)
        logprobs = model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(-1)
        for place in range(1, len(ids)):
            if document.learn[place]:
                total = total - logprobs[place - 1, ids[place]]
    return total


def test_packed_loss_and_gradients_equal_documents_alone(llama, documents):
    plain, taught = llama(), teach(llama())
    expected = slow_nats(plain, documents)
    expected.backward()
    loss = taught(**collate([documents[:2], documents[2:]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for ours, theirs in zip(taught.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
def test_a_taught_model_keeps_documents_apart_under_stock_attention_too(llama, documents, attention):
    """Stock attention tells documents by their positions, but only without a 2-D mask and without a cache: what the taught model passes decides."""
    model = llama()
    model.set_attn_implementation(attention)
    expected = float(slow_nats(llama(), documents).detach())
    assert float(teach(model)(**collate([documents])).detach()) == pytest.approx(expected, rel=1e-6)


def test_total_nats_does_not_depend_on_the_micro_batch(llama, documents):
    model = teach(llama())
    rows = PackedRows(documents, capacity=12, seed=0)
    (one, count), (all_at_once, same) = total_nats(model, rows, 1), total_nats(model, rows, 10)
    assert count == same == sum(int(document.learn[1:].sum()) for document in documents)
    assert one == pytest.approx(all_at_once, rel=1e-6)


def test_a_taught_model_answers_as_before_and_can_be_untaught(llama):
    model = llama().eval()
    ids = torch.randint(10, 300, (1, 8))
    before = model(input_ids=ids).logits
    assert torch.equal(teach(model)(input_ids=ids).logits, before)
    assert "forward" not in vars(untaught(model))


def test_an_attention_that_leaks_is_refused(llama):
    model = llama()
    model.set_attn_implementation("eager")
    model.config._attn_implementation = "eager"
    original = model.base_model.forward
    model.base_model.forward = lambda **inputs: original(**{**inputs, "position_ids": None})
    with pytest.raises(StageError, match="does not keep packed documents apart"):
        teach(model)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_logits_are_made_for_learned_places_alone_and_a_chunk_of_them_at_a_time(llama, monkeypatch, share):
    """Every tensor as wide as the vocabulary that forward and backward make is seen: the largest is a chunk, and together they are the learned places."""
    from functools import partial

    from torch.utils._python_dispatch import TorchDispatchMode

    from stages.core import causal
    from stages.core.losses import chunked_cross_entropy

    model = llama()
    vocabulary, products, largest = model.config.vocab_size, [], [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.dim() and made.size(-1) == vocabulary:
                largest[0] = max(largest[0], made.numel() // vocabulary)
                if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                    products.append(made.numel() // vocabulary)
            return made

    monkeypatch.setattr(
        causal, "chunked_cross_entropy", partial(chunked_cross_entropy, chunk=48)
    )  # above the width of 32: the weight too is as wide as the vocabulary
    causal.teach(model)
    source = np.random.default_rng(0)
    rows = [Document(source.integers(0, vocabulary, 50).astype(np.int32), source.random(50) < share) for _ in range(6)]
    batch = collate([rows])
    with Watch():
        model(**batch).backward()
    assert largest[0] <= 48 < len(batch["targets"]) <= batch["input_ids"].numel()
    assert sum(products) == len(batch["targets"])
