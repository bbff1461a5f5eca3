"""Packing loses nothing, cuts nothing and wastes little."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.packing import cut, pack

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(0, capacity), max_size=60), st.just(capacity))
)


@settings(deadline=None)
@given(lengths_and_capacity)
def test_packing_is_a_permutation_and_no_row_is_too_long(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[index] for index in row) <= capacity for row in rows)


def best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Space left in each row by the obvious version: look at every row."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, space in enumerate(spaces) if space >= length]
        if fitting:
            spaces[min(fitting, key=lambda index: spaces[index])] -= length
        else:
            spaces.append(capacity - length)
    return spaces


@settings(deadline=None)
@given(lengths_and_capacity)
def test_rows_are_filled_as_by_the_obvious_best_fit(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    spaces = [capacity - sum(lengths[index] for index in row) for row in pack(lengths, capacity)]
    assert sorted(spaces) == sorted(best_fit(lengths, capacity))


def test_a_document_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="11 tokens does not fit into a row of 10"):
        pack([3, 11], 10)


def test_nothing_packs_into_no_rows() -> None:
    assert pack([], 8) == []


@given(st.integers(1, 200), st.integers(2, 50))
def test_cutting_predicts_every_token_but_the_first_exactly_once(length: int, capacity: int) -> None:
    pieces = cut(length, capacity)
    predicted = [token for begin, end in pieces for token in range(begin + 1, end)]
    assert predicted == list(range(1, length))
    assert all(end - begin <= capacity for begin, end in pieces)


def test_a_row_of_one_token_has_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="nothing to predict"):
        cut(5, 1)
