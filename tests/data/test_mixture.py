"""How often each record comes in an epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.mixture import check_weight, shares, taken, tempered


@given(st.integers(1, 300), st.floats(0.01, 5))
def test_every_record_comes_as_often_as_any_other_give_or_take_one(count: int, weight: float) -> None:
    times = [taken(count, weight).count(index) for index in range(count)]
    assert max(times) - min(times) <= 1
    assert abs(sum(times) - weight * count) <= 1
    assert taken(count, weight) == taken(count, weight)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.1, 10)), min_size=1, max_size=6), st.floats(1, 100))
def test_a_temperature_raises_shares_to_its_inverse_power_and_keeps_the_epochs_size(
    sources: list[tuple[int, float]], temperature: float
) -> None:
    counts, weights = [count for count, _ in sources], [weight for _, weight in sources]
    found = tempered(counts, weights, temperature)
    assert sum(c * w for c, w in zip(counts, found, strict=True)) == pytest.approx(sum(c * w for c, w in sources))
    powers = [share ** (1 / temperature) for share in shares(counts, weights)]
    assert shares(counts, found) == pytest.approx([power / sum(powers) for power in powers])


@pytest.mark.parametrize(("count", "weight"), [(10, 0.05), (1, 0.5), (0, 0.001), (3, 1), (3, 2.01)])
def test_a_weight_that_takes_no_record_is_refused(count: int, weight: float) -> None:
    if taken(count, weight) or not count:
        check_weight("a", count, weight)
        return
    with pytest.raises(DataError, match="takes none"):
        check_weight("a", count, weight)
