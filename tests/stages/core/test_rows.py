import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.core.rows import Document, PackedRows, collate


def documents(lengths):
    return [Document(np.full(length, index, np.int32)) for index, length in enumerate(lengths)]


def names(row):
    return sorted(int(document.ids[0]) for document in row)


def test_every_epoch_holds_every_document_once_in_another_order():
    rows = PackedRows(documents(range(2, 40)), capacity=64, seed=5).resized(1000)
    size = rows.per_epoch
    epochs = [[names(rows[epoch * size + index]) for index in range(size)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(name for row in epoch for name in row) == list(range(38))
    assert epochs[0] != epochs[1] != epochs[2]


def test_any_row_can_be_made_at_any_time():
    first, again = (PackedRows(documents(range(2, 40)), capacity=64, seed=5).resized(100) for _ in range(2))
    backwards = [names(again[index]) for index in reversed(range(100))][::-1]
    assert [names(first[index]) for index in range(100)] == backwards


def test_rows_are_no_longer_than_their_capacity_and_nearly_full():
    rows = PackedRows(documents([int(length) for length in np.random.default_rng(0).integers(2, 33, 400)]), capacity=64, seed=0)
    lengths = [sum(len(document.ids) for document in rows[index]) for index in range(len(rows))]
    assert max(lengths) <= 64
    assert sum(lengths) >= 0.98 * 64 * (len(rows) - 1)


def test_a_micro_batch_predicts_each_learned_token_from_its_predecessor_in_the_same_document():
    one = Document(np.array([5, 6, 7], np.int32), np.array([False, False, True]))
    two = Document(np.array([8, 9], np.int32), np.array([True, True]))
    batch = collate([[one], [two]])
    ids = batch["input_ids"][0]
    pairs = {(int(ids[place]), int(target)) for place, target in zip(batch["learned"], batch["targets"], strict=True)}
    assert pairs == {(6, 7), (8, 9)}, "8 begins its document and has no predecessor"
    assert sorted(batch["position_ids"][0].tolist()) == [0, 0, 1, 1, 2]
    assert batch["input_ids"].dtype == batch["targets"].dtype == torch.int64


def test_many_documents_are_packed_in_windows_without_loss_in_another_order_each_epoch():
    lengths = [int(length) for length in np.random.default_rng(1).integers(2, 33, 500)]
    rows = PackedRows(documents(lengths), capacity=64, seed=3, window=64).resized(10_000)
    size = rows.per_epoch
    epochs = [[names(rows[epoch * size + index]) for index in range(size)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(name for row in epoch for name in row) == list(range(500))
    assert epochs[0] != epochs[1] != epochs[2]
    assert size <= 1.05 * sum(lengths) / 64, "windows cost little"
    again = PackedRows(documents(lengths), capacity=64, seed=3, window=64).resized(10_000)
    backwards = [names(again[index]) for index in reversed(range(3 * size))][::-1]
    assert backwards == [row for epoch in epochs for row in epoch], "any row at any time"


def test_documents_on_disk_give_the_rows_of_documents_in_memory():
    from stages.core.rows import Mapped

    source = np.random.default_rng(2)
    lengths = source.integers(2, 33, 50)
    starts = np.cumsum(lengths) - lengths
    ids, learn = source.integers(0, 999, lengths.sum()).astype(np.uint16), source.random(lengths.sum()) < 0.5
    held = [Document(ids[a : a + n].astype(np.int32), learn[a : a + n]) for a, n in zip(starts, lengths, strict=True)]
    mapped = PackedRows(Mapped(ids, starts, lengths, learn), capacity=64, seed=0)
    memory = PackedRows(held, capacity=64, seed=0)
    assert len(mapped) == len(memory)
    for index in range(len(mapped)):
        one, two = collate([mapped[index]]), collate([memory[index]])
        assert all(torch.equal(one[name], two[name]) for name in one)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(2, 9), min_size=2, max_size=7), st.integers(9, 24), st.integers(0, 6))
def test_any_documents_are_packed_without_loss_or_leak(llama, lengths, capacity, asked):
    """All rows together: every document once, and what one makes of its tokens has a gradient of exactly 0 in the embeddings of all others."""
    model, documents = llama(), [Document(np.arange(length, dtype=np.int32) + 20 * index) for index, length in enumerate(lengths)]
    rows = PackedRows(documents, capacity=capacity, seed=asked)
    assert sorted(number for row in range(len(rows)) for number in rows.documents(row)) == list(range(len(lengths)))
    batch = collate([rows[row] for row in range(len(rows))])
    ids = batch["input_ids"][0]
    assert sorted(ids.tolist()) == sorted(int(token) for document in documents for token in document.ids)
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    hidden = model.base_model(inputs_embeds=embedded, position_ids=batch["position_ids"], use_cache=False).last_hidden_state
    own = ids // 20 == asked % len(lengths)
    (gradient,) = torch.autograd.grad(hidden[0, own].square().sum(), embedded)
    assert bool((gradient[0, own].abs().sum(1) > 0).all())
    assert int(gradient[0, ~own].count_nonzero()) == 0
