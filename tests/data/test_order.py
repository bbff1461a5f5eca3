"""The order of rows is a function of seed and epoch, and resuming needs one number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.order import epoch_order, visited


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 5))
def test_an_epoch_visits_every_row_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(n, seed, epoch)) == list(range(n))


def test_the_order_is_this_one_on_every_machine_and_version() -> None:
    assert epoch_order(8, 7, 0).tolist() == [5, 0, 4, 2, 3, 1, 7, 6]


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(epoch_order(100, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.integers(1, 20), st.integers(0, 40), st.integers(0, 40))
def test_going_on_from_a_position_gives_what_an_uninterrupted_run_would_have_visited(n: int, start: int, count: int) -> None:
    assert visited(n, 3, 0, start + count)[start:] == visited(n, 3, start, count)


def test_two_epochs_are_two_whole_epochs() -> None:
    assert visited(5, 1, 0, 10) == [*epoch_order(5, 1, 0), *epoch_order(5, 1, 1)]


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        visited(0, 1, 0, 1)
