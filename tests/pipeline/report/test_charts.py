"""Laws of the drawings: what is drawn lies inside, ticks are round, a family is laid out without overlap."""

import itertools
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, Dot, histogram, linear_ticks, log_ticks, scatter, stage_chart
from pipeline.report.family import TALL, WIDE, Sizes, draw
from pipeline.report.page import digits, interval, tick
from pipeline.report.series import Curves, Series

FINITE = st.floats(-1e9, 1e9)


def curves_of(**values: list[float]) -> Curves:
    return Curves(tuple(Series(name, tuple(range(1, len(ys) + 1)), tuple(ys)) for name, ys in values.items()))


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.e+-]+),(-?[\d.e+-]+)", path)]


@settings(max_examples=40, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=120))
def test_every_drawn_point_lies_inside_the_chart(ys: list[float]) -> None:
    chart = stage_chart("k", ["loss"], curves_of(loss=ys), 100)
    for line in chart.lines:
        for x, y in points(chart.path(line)):
            assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
            assert -0.1 <= y <= HEIGHT


@settings(max_examples=40, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_linear_ticks_are_round_and_inside(low: float, span: float, count: int) -> None:
    ticks = linear_ticks(low, low + span, count)
    assert len(ticks) <= count + 1
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_log_ticks_are_powers_of_ten_with_two_and_five_where_few() -> None:
    assert log_ticks(0.9, 110) == [1, 2, 5, 10, 20, 50, 100]
    assert log_ticks(1e-12, 1.0)[0] <= 1e-11
    assert len(log_ticks(1.1, 1.4)) > 1


def test_a_wide_positive_series_known_for_it_gets_a_log_scale_and_others_the_choice() -> None:
    decays = [10.0 ** (3 - i / 20) for i in range(100)]
    assert stage_chart("k", ["grad_norm"], curves_of(grad_norm=decays), 100).scale == "log"
    assert stage_chart("k", ["loss"], curves_of(loss=decays), 100).scale == "linear"
    assert stage_chart("k", ["loss"], curves_of(loss=decays), 100).can_log
    assert not stage_chart("k", ["loss"], curves_of(loss=[-1.0, 2.0]), 100).can_log


def test_a_noisy_series_gets_a_trend_over_its_raw_line_and_held_out_points_are_dashed() -> None:
    rng = random.Random(1)
    curves = curves_of(reward=[rng.random() for _ in range(80)], held_out_reward=[0.1, 0.2, 0.3])
    chart = stage_chart("k", ["held_out_reward", "reward"], curves, 60)
    assert [(line.style, line.label) for line in chart.lines] == [
        ("faint", "Reward"),
        ("trend", "Reward, smoothed"),
        ("dashed", "held out"),
    ]


def test_the_table_of_a_chart_has_first_and_last_step_and_the_summary_its_extremes() -> None:
    chart = stage_chart("k", ["loss"], curves_of(loss=[math.cos(i) for i in range(500)]), 50)
    assert (chart.table[1][0], chart.table[-1][0]) == ("1", "500")
    assert len(chart.table) == 13
    assert "lowest -1.000 nats, highest 1 nats" in chart.summary


def test_a_series_without_a_finite_value_is_told_in_words() -> None:
    curves = Curves((Series("loss", (), (), (1.0,)),))
    chart = stage_chart("k", ["loss"], curves, 50)
    assert chart.lines == []
    assert "no finite values" in chart.summary


def test_a_scatter_needs_two_finite_points() -> None:
    assert scatter("k", "t", "", ("x", "y"), [Dot("a", 1, 1), Dot("b", math.nan, 1)]) is None
    plot = scatter("k", "t", "", ("x", "y"), [Dot("a", 0, 1), Dot("b", 5, 2)])
    assert plot.place(plot.dots[0])["anchor"] == "start"
    assert plot.place(plot.dots[1])["anchor"] == "end"


def test_a_histogram_counts_every_finite_value_once() -> None:
    rng = random.Random(2)
    groups = {"a": [rng.gauss(0, 1) for _ in range(300)], "b": [rng.gauss(1, 1) for _ in range(200)] + [math.inf]}
    plot = histogram("k", "t", "", groups)
    assert {label: sum(counts) for label, counts in plot.counts.items()} == {"a": 300, "b": 200}
    assert plot.path("a").startswith("M")
    assert histogram("k", "t", "", {"a": [1.0, 1.0]}) is None


@st.composite
def families(draw_: st.DrawFn) -> dict[str, dict[str, str]]:
    """Any recipe: each stage takes from some of those above it."""
    parents: dict[str, dict[str, str]] = {}
    for number in range(draw_(st.integers(1, 9))):
        above = draw_(st.lists(st.sampled_from([*parents, None]), max_size=3, unique=True))
        parents[f"s{number}"] = {name: draw_(st.sampled_from(["model", "part", "data"])) for name in above if name}
    return parents


@pytest.mark.parametrize("sizes", [WIDE, TALL])
@settings(max_examples=40, deadline=None)
@given(parents=families())
def test_no_two_boxes_of_a_family_overlap_and_children_come_after_parents(parents: dict[str, dict[str, str]], sizes: Sizes) -> None:
    tree = draw(parents, sizes)
    width, height = (sizes.box_across, sizes.box_along) if sizes.vertical else (sizes.box_along, sizes.box_across)
    boxes = {box.name: box for box in tree.boxes}
    assert list(parents) == sorted(boxes, key=list(parents).index)
    for a, b in itertools.combinations(tree.boxes, 2):
        assert abs(a.x - b.x) >= width or abs(a.y - b.y) >= height
    for box in tree.boxes:
        assert -0.1 <= box.x <= tree.width - width + 0.1
        assert -0.1 <= box.y <= tree.height - height + 0.1
    for child, ties in parents.items():
        for parent in ties:
            assert (boxes[child].y > boxes[parent].y) if sizes.vertical else (boxes[child].x > boxes[parent].x)


def test_the_family_of_nothing_is_an_empty_drawing() -> None:
    assert draw({}).boxes == []


def test_bytes_have_round_ticks_of_mebibytes_and_a_held_out_series_the_colour_of_its_own() -> None:
    rewards = [float(step) for step in range(40)]
    curves = curves_of(
        memory_bytes=[2.0**20 * (500 + step) for step in range(40)], reward=rewards, reward_judge=rewards, held_out_reward_judge=rewards
    )
    memory = stage_chart("m", ["memory_bytes"], curves, 100)
    assert (memory.unit, memory.lines[0].last) == ("MiB", 539.0)
    chart = stage_chart("r", ["reward", "reward_judge", "held_out_reward_judge"], curves, 100)
    assert [line.colour for line in chart.lines] == [0, 1, 1]


def test_ticks_of_an_axis_are_told_apart() -> None:
    ticks = [(1.0001, 0.0), (1.00015, 0.0), (1.0002, 0.0)]
    assert len({tick(value, "", digits(ticks)) for value, _ in ticks}) == 3
    assert digits([(0.1, 0.0), (0.2, 0.0)]) == 4


def test_estimates_stand_under_one_another_with_as_many_places() -> None:
    assert interval("0.00104 (0 to 0.0026)") == ("0.001", "0.000 to 0.003")
    assert interval("-1.06 (-1.09 to -1.03)") == ("-1.06", "-1.09 to -1.03")
    assert interval("50.7 (49 to 52.31)") == ("50.7", "49.0 to 52.3")
    assert interval("nan (-inf to inf)") == ("nan", "-inf to inf"), "a number that is none costs no page"
    assert interval("by hand (as is)") == ("by hand (as is)", "")
