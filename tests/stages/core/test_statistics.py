from itertools import combinations

import numpy as np
import pytest

from stages.core.statistics import above_best_of, best_of, best_of_kl, bootstrap, correlation, estimate, wilson, wins


def test_wilsons_interval_equals_published_numbers_and_stays_between_zero_and_one():
    told = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(told.low, 4), round(told.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)


def test_wilsons_interval_holds_the_truth_in_about_95_of_100_samples():
    draws = np.random.default_rng(0).binomial(60, 0.8, size=2000)
    held = [wilson(int(count), 60) for count in draws]
    assert 0.93 < np.mean([told.low <= 0.8 <= told.high for told in held]) < 0.97


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=2000)
    told = bootstrap(values, seed=0)
    reach = 1.96 * 2.0 / np.sqrt(2000)
    assert told.low == pytest.approx(values.mean() - reach, abs=0.01)
    assert told.high == pytest.approx(values.mean() + reach, abs=0.01)
    assert told == bootstrap(values, seed=0)


def test_shares_get_wilsons_interval_and_other_means_the_bootstraps():
    shares, others = np.array([0.0, 1.0, 0.5, 1.0]), np.array([0.2, 1.0, 0.5, 1.0])
    assert estimate(shares, seed=0) == wilson(2.5, 4)
    assert estimate(others, seed=0) == bootstrap(others, seed=0)


def test_nothing_has_no_interval():
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="nothing"):
        bootstrap(np.array([]), seed=0)


def test_a_tie_is_half_a_win_and_swapping_mirrors_the_rate():
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 5.0])
    assert wins(ours, theirs).tolist() == [0.5, 1.0, 0.0]
    np.testing.assert_array_equal(wins(ours, theirs), 1 - wins(theirs, ours))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_equals_the_average_over_all_choices_of_n_samples(n):
    generator = np.random.default_rng(n)
    rewards, values = generator.integers(0, 3, size=(7, 5)).astype(float), generator.normal(size=(7, 5))
    expected = np.zeros(7)
    for row in range(7):
        choices = list(combinations(range(5), n))
        for choice in choices:
            best = max(rewards[row, list(choice)])
            winners = [sample for sample in choice if rewards[row, sample] == best]
            expected[row] += np.mean(values[row, winners]) / len(choices)
    np.testing.assert_allclose(best_of(rewards, values, n), expected, atol=1e-12)


def test_best_of_one_is_the_mean_and_best_of_all_the_maximum():
    rewards = np.random.default_rng(2).normal(size=(20, 4))
    np.testing.assert_allclose(best_of(rewards, rewards, 1), rewards.mean(axis=1))
    np.testing.assert_allclose(best_of(rewards, rewards, 4), rewards.max(axis=1))
    with pytest.raises(ValueError, match="best of 5"):
        best_of(rewards, rewards, 5)


def test_best_of_n_costs_no_kl_for_one_and_about_two_thirds_of_a_nat_for_four():
    assert best_of_kl(1) == 0.0
    assert best_of_kl(4) == pytest.approx(0.636, abs=1e-3)


def test_correlation_is_numpys_and_zero_for_a_constant():
    first, second = np.random.default_rng(3).normal(size=(2, 50))
    assert correlation(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert correlation(np.ones(50), second) == 0.0


def test_the_best_of_n_lies_on_its_own_curve_and_a_constant_more_lies_above_it_by_that():
    rewards = np.random.default_rng(0).normal(size=(200, 8))
    for n in (1, 3, 8):
        found = above_best_of(best_of(rewards, rewards, n) + 0.25, np.full(200, best_of_kl(n)), rewards, seed=0)
        assert found is not None
        assert found.mean == pytest.approx(0.25)
        assert found.low <= 0.25 <= found.high
    between = above_best_of(np.zeros(200), np.full(200, (best_of_kl(2) + best_of_kl(3)) / 2), rewards, seed=0)
    assert between is not None
    assert between.mean == pytest.approx(-(best_of(rewards, rewards, 2).mean() + best_of(rewards, rewards, 3).mean()) / 2)
    assert above_best_of(rewards[:, 0], np.full(200, best_of_kl(8) + 0.01), rewards, seed=0) is None


def test_a_prompt_of_weight_three_counts_as_three_prompts_do():
    generator = np.random.default_rng(1)
    rewards, reward, kl = generator.normal(size=(50, 8)), generator.normal(size=50), generator.uniform(0.1, 1.0, size=50)
    weights = generator.integers(1, 4, size=50)
    rows = np.repeat(np.arange(50), weights)
    weighted = above_best_of(reward, kl, rewards, seed=0, weights_N=weights.astype(np.float64))
    repeated = above_best_of(reward[rows], kl[rows], rewards[rows], seed=0)
    assert weighted is not None
    assert repeated is not None
    assert weighted.mean == pytest.approx(repeated.mean, abs=1e-12)
    # Weights are no further prompts: what is drawn anew is 50 of them and not 100, so that the interval is wider.
    assert weighted.high - weighted.low > repeated.high - repeated.low
