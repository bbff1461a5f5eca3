import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from stages.core.statistics import Estimate
from stages.evaluate.figure import HEIGHT, WIDTH, Figure, Point, Series, draw, ticks
from stages.evaluate.report import (
    BestOf,
    Column,
    Said,
    family_table,
    flat,
    markdown,
    readable,
    reward_over_kl,
    shown,
    side_by_side,
    truth_over_reward,
)

SVG = "{http://www.w3.org/2000/svg}"


def estimated(mean, reach=0.05):
    return Estimate(mean, mean - reach, mean + reach)


@pytest.fixture
def family():
    return [
        Column("base", {"perplexity": 8.0, "good": estimated(0.1), "reward": estimated(-1.0), "kl": estimated(3.0)}),
        Column("chat", {"perplexity": 9.0, "good": estimated(0.5), "reward": estimated(0.0), "kl": 0.0}),
        Column("policy", {"perplexity": 9.5, "good": estimated(0.7), "reward": estimated(1.2), "win_rate": 0.8, "kl": estimated(1.5)}),
        Column("best of 4 of chat", {"good": estimated(0.6), "reward": estimated(0.9), "kl": 0.64}, key="best_of_4"),
    ]


def test_the_table_has_a_row_a_quantity_and_a_column_a_model_and_gaps_where_nothing_was_measured(family):
    table = family_table("The family", family)
    assert table.columns == ["", "base", "chat", "policy", "best of 4 of chat"]
    assert [row[0] for row in table.rows] == ["perplexity", "good", "reward", "win rate", "kl"]
    assert table.rows[3] == ["win rate", None, None, 0.8, None]
    assert table.rows[1][3] == "0.7 (0.65 to 0.75)"


def test_metrics_are_named_by_model_and_quantity(family):
    metrics = flat(family)
    assert metrics["policy.good"] == 0.7
    assert metrics["chat.perplexity"] == 9.0
    assert metrics["best_of_4.reward"] == 0.9


def test_numbers_are_shown_short_and_names_in_words():
    assert shown(estimated(0.71234, 0.1)) == "0.712 (0.612 to 0.812)"
    assert shown(12345.6) == 12346.0
    assert shown(None) is None
    assert readable("good_greedy") == "good, greedy"
    assert readable("good_greedy_held_fact") == "good, greedy held fact"
    assert readable("win_rate") == "win rate"


def test_what_models_say_cannot_break_the_page(family):
    said = Said("policy", "sampled", "a | b\nc", {"good": 1.0})
    page = side_by_side([("user: which?\nsecond line", "b", [said])])
    (row,) = [line for line in page.splitlines() if line.startswith("| policy")]
    assert row == "| policy | sampled | a \\| b c | good 1 |"
    assert "> second line" in page
    assert "| policy | 0.7" not in markdown([family_table("t", family)], ["a note"])
    assert markdown([family_table("t", family)], ["a note"]).endswith("- a note\n")


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own document


def test_reward_and_truth_stand_in_one_picture_with_the_best_of_n_curve(family):
    curve = {n: estimated(0.3 * n) for n in (1, 2, 4)}
    best = BestOf("chat", curve, curve)
    picture = truth_over_reward(family[:3], "reward", "good", best)
    assert {"base", "chat", "policy", "n = 2", "n = 4"} <= set(texts(draw(picture)))
    frontier = reward_over_kl(family[:3], "kl", "reward", "chat", best)
    assert "mean KL to chat per answer, in nats" in texts(draw(frontier))
    assert truth_over_reward([Column("base", {"perplexity": 8.0})], "reward", "good", None) is None


def test_every_point_lies_within_the_picture_and_labels_are_escaped():
    points = [Point(f"<{number}>", estimated(10.0**number, 0), estimated(-number, 0.5)) for number in range(4)]
    svg = draw(Figure("a & b", "x", "y", [Series("one", points, joined=True)]))
    root = ElementTree.fromstring(svg)  # noqa: S314
    circles = [(float(each.get("cx")), float(each.get("cy"))) for each in root.iter(f"{SVG}circle")]
    assert len(circles) == 5
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in circles)
    assert "<0>" in texts(svg)


def test_a_single_point_without_extent_can_be_drawn_and_none_cannot():
    assert draw(Figure("", "x", "y", [Series("one", [Point("p", estimated(0.0, 0), estimated(0.0, 0))])])).count("<circle") == 2
    with pytest.raises(ValueError, match="needs a point"):
        draw(Figure("", "x", "y", []))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.31, 0.42), (3.0, 3.1), (-2e4, 7e5), (1e-4, 9e-4)])
def test_ticks_are_round_enclose_the_range_and_are_neither_few_nor_many(low, high):
    values = ticks(low, high)
    assert values[0] <= low
    assert values[-1] >= high
    assert 3 <= len(values) <= 9
    steps = {round((second - first) / (values[1] - values[0]), 6) for first, second in itertools.pairwise(values)}
    assert steps == {1.0}
