"""Packed rows: what is learned, where positions restart, and that no document sees another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from data.batches import IGNORE, Packed, packed_row

documents = st.lists(st.lists(st.integers(0, 90), min_size=1, max_size=8), min_size=1, max_size=6)


@given(documents)
def test_a_row_is_its_documents_and_positions_restart_at_each(row: list[list[int]]) -> None:
    packed = packed_row(row)
    starts = (packed["position_ids"] == 0).nonzero().flatten().tolist()
    cut = [part.tolist() for part in torch.tensor_split(packed["input_ids"], starts[1:])]
    assert cut == row
    assert packed["position_ids"].tolist() == [position for document in row for position in range(len(document))]


@given(documents, st.data())
def test_labels_are_the_learned_tokens_and_never_the_first_of_a_document(row: list[list[int]], data: st.DataObject) -> None:
    learn = [data.draw(st.lists(st.booleans(), min_size=len(document), max_size=len(document))) for document in row]
    labels = packed_row(row, learn)["labels"].tolist()
    expected = [
        token if learns and place else IGNORE
        for document, mask in zip(row, learn, strict=True)
        for place, (token, learns) in enumerate(zip(document, mask, strict=True))
    ]
    assert labels == expected


# Isolation in transformers -----------------------------------------------------------------------------------------------------------

FIRST, SECOND = [5, 9, 3, 7], [8, 2, 6]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, attn_implementation="sdpa"
    )
    return LlamaForCausalLM(config).train()


def one_row(documents: list[list[int]]) -> dict[str, Tensor]:
    packed: Packed = packed_row(documents)
    return {name: packed[name].unsqueeze(0) for name in ("input_ids", "position_ids", "labels")}


def leak(model: LlamaForCausalLM, **changes: object) -> float:
    """Largest gradient of the second document's loss with respect to the first one's embeddings."""
    batch = one_row([FIRST, SECOND])
    embeddings: Tensor = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = {"inputs_embeds": embeddings, "position_ids": batch["position_ids"], "use_cache": False, **changes}
    labels = batch["labels"].clone()
    labels[:, : len(FIRST)] = IGNORE
    model(**{name: value for name, value in inputs.items() if value is not None}, labels=labels).loss.backward()
    assert embeddings.grad is not None
    return float(embeddings.grad[:, : len(FIRST)].abs().max())


def test_no_document_of_a_row_sees_another(model: LlamaForCausalLM) -> None:
    assert leak(model) == 0.0


@pytest.mark.parametrize(
    "changes",
    [{"position_ids": torch.arange(7)[None]}, {"attention_mask": torch.ones(1, 7, dtype=torch.long)}, {"use_cache": True}],
    ids=["positions that do not restart", "a 2-D mask", "the default cache"],
)
def test_each_of_these_lets_documents_see_one_another(model: LlamaForCausalLM, changes: dict[str, object]) -> None:
    """If one of these stops leaking, transformers changed, and what rows leave out may be put back."""
    assert leak(model, **changes) > 1e-6


def test_the_loss_of_a_row_is_that_of_its_documents_alone(model: LlamaForCausalLM) -> None:
    def total(row: list[list[int]]) -> Tensor:
        batch = one_row(row)
        return model(**batch, use_cache=False).loss * (batch["labels"] != IGNORE).sum()

    torch.testing.assert_close(total([FIRST, SECOND]), total([FIRST]) + total([SECOND]))
