from dataclasses import replace

import numpy as np
import pytest

from stages.reward.metrics import (
    Judged,
    accuracy_metrics,
    calibration_metrics,
    length_rule,
    probe_metrics,
    reliability,
    reliability_table,
    reward_metrics,
    slices,
)


def judged_by(difference, *, longer=None, groups=None, sources=None, utility=None, margin=None):
    difference = np.asarray(difference, dtype=np.float64)
    count = len(difference)
    longer = np.zeros(count, dtype=np.int64) if longer is None else np.asarray(longer)
    return Judged(
        chosen=difference / 2,
        rejected=-difference / 2,
        chosen_tokens=20 + longer,
        rejected_tokens=np.full(count, 20),
        sources=sources or ["one"] * count,
        groups=groups or [None] * count,
        margin=np.full(count, np.nan) if margin is None else np.asarray(margin),
        utility=np.full(count, np.nan) if utility is None else np.asarray(utility, dtype=np.float64),
    )


def swapped(judged):
    return replace(
        judged,
        chosen=judged.rejected,
        rejected=judged.chosen,
        chosen_tokens=judged.rejected_tokens,
        rejected_tokens=judged.chosen_tokens,
        utility=-judged.utility,
    )


def test_accuracy_is_the_share_of_pairs_whose_chosen_answer_scores_higher_and_a_tie_is_half():
    metrics = accuracy_metrics(judged_by([1.0, -1.0, 0.0, 2.0]))
    assert metrics["accuracy"] == 0.625
    assert metrics["accuracy_low"] < 0.625 < metrics["accuracy_high"]


def test_a_probe_tells_the_lead_of_the_truly_better_answer_in_units_of_the_rewards_deviation_whatever_the_labels():
    probes = judged_by([3.0, -1.0, 2.0, 0.0], utility=[4.0, 4.0, -4.0, 4.0])  # leads 3, -1, -2 and 0
    expected = {"probe_accuracy": 1.5 / 4, "probe_lead": 0.0, "probe_deviation": np.sqrt(14 / 4) / 2}
    assert probe_metrics(probes, 2.0) == pytest.approx(expected)
    assert probe_metrics(swapped(probes), 2.0) == pytest.approx(expected)
    assert probe_metrics(judged_by([3.0, -1.0]), 1.0)["probe_lead"] == 1.0, "without utilities the label decides"


def test_swapping_chosen_and_rejected_mirrors_every_accuracy():
    generator = np.random.default_rng(0)
    judged = judged_by(generator.normal(0.4, 1, 200), groups=["a", "b"] * 100, utility=generator.normal(0.4, 1, 200))
    ours, mirrored = accuracy_metrics(judged), accuracy_metrics(swapped(judged))
    for name in ("accuracy", "accuracy_a", "accuracy_b", "oracle_accuracy"):
        assert mirrored[name] == pytest.approx(1 - ours[name])
    for name in ("utility_agreement", "utility_correlation", "utility_slope"):  # the truth does not depend on the label
        assert mirrored[name] == pytest.approx(ours[name])


def test_groups_and_sources_are_told_apart_and_a_single_source_is_not_named():
    metrics = accuracy_metrics(judged_by([1.0, 1.0, -1.0, -1.0], groups=["manner", "truth", "truth", None], sources=["x", "x", "y", "y"]))
    assert metrics["accuracy_manner"] == 1.0
    assert metrics["accuracy_truth"] == 0.5
    assert (metrics["accuracy_source_x"], metrics["accuracy_source_y"]) == (1.0, 0.0)
    assert "accuracy_source_one" not in accuracy_metrics(judged_by([1.0]))
    metrics = accuracy_metrics(judged_by([1.0, -1.0], groups=["low", "high"]))
    assert (metrics["accuracy_group_low"], metrics["accuracy_group_high"]) == (1.0, 0.0)
    assert 0 < metrics["accuracy_low"] < 0.5 < metrics["accuracy_high"] < 1, "the ends of the interval"


def test_the_oracles_accuracy_is_the_share_of_labels_that_agree_with_the_truth():
    metrics = accuracy_metrics(judged_by([1.0, 1.0, -1.0], utility=[2.0, -1.0, np.nan]))
    assert metrics["oracle_accuracy"] == 0.5
    assert metrics["utility_agreement"] == 0.5
    assert "oracle_accuracy" not in accuracy_metrics(judged_by([1.0]))


def test_a_model_that_gives_twice_the_utility_has_slope_two_and_correlation_one():
    utility = np.random.default_rng(1).normal(size=50)
    metrics = accuracy_metrics(judged_by(2 * utility, utility=utility))
    assert metrics["utility_slope"] == pytest.approx(2.0)
    assert metrics["utility_correlation"] == pytest.approx(1.0)
    assert metrics["utility_agreement"] == 1.0


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has():
    generator = np.random.default_rng(2)
    truth = generator.normal(0, 1.5, size=20_000)
    labels = generator.random(20_000) < 1 / (1 + np.exp(-truth))
    difference = np.where(labels, truth, -truth)
    assert calibration_metrics(judged_by(difference))["calibration_error"] < 0.01
    assert calibration_metrics(judged_by(4 * difference))["calibration_error"] > 0.1


def test_an_identical_pair_costs_ln_2_and_lies_in_the_lowest_bin():
    judged = judged_by([0.0])
    assert calibration_metrics(judged)["held_out_loss"] == pytest.approx(np.log(2))
    (only,) = reliability(judged.difference)
    assert (only.low, only.confidence, only.accuracy) == (0.5, 0.5, 0.5)


def test_the_bins_of_the_reliability_curve_hold_every_pair_once():
    difference = np.random.default_rng(3).normal(0, 5, size=500)
    bins = reliability(difference)
    assert sum(each.pairs for each in bins) == 500
    assert all(each.low <= each.confidence <= each.high for each in bins)
    assert len(reliability_table(judged_by(difference)).rows) == len(bins)


def test_the_length_rule_is_chosen_on_training_pairs_and_judged_on_held_out_ones():
    assert length_rule(np.array([-1, -2, 3]), np.array([5, 5, -5, 0])) == ("shorter wins", 0.375)
    assert length_rule(np.array([1, 2, -3]), np.array([5, 5, -5, 0])) == ("longer wins", 0.625)


def test_reward_statistics_are_over_all_answers_and_a_reward_that_is_length_correlates_fully():
    judged = judged_by([2.0, -4.0, 6.0])
    metrics = reward_metrics(replace(judged, chosen_tokens=np.array([21, 18, 23]), rejected_tokens=np.array([19, 22, 17])))
    assert metrics["reward_mean"] == pytest.approx(0.0)
    assert metrics["reward_std"] == pytest.approx(np.std([1, -2, 3, -1, 2, -3]))
    assert metrics["length_correlation"] == pytest.approx(1.0)


def test_the_slices_by_length_and_by_margin_hold_every_pair_once():
    generator = np.random.default_rng(4)
    longer = generator.integers(-30, 30, size=300)
    table = slices(judged_by(generator.normal(size=300), longer=longer, margin=generator.normal(size=300)))
    counts = {str(row[0]): row[1] for row in table.rows}
    assert counts["all"] == 300
    assert sum(count for name, count in counts.items() if name.startswith(("chosen", "equally"))) == 300
    assert sum(count for name, count in counts.items() if name.startswith("margin")) == 300
    assert all(len(row) == len(table.columns) for row in table.rows)
