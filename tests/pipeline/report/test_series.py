"""Laws of reading, thinning and smoothing curves."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.series import noise, read_curves, thin, trend


def written(folder: Path, *lines: str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_every_number_of_every_line_is_a_point(tmp_path: Path) -> None:
    path = written(tmp_path, '{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.5, "validation_loss": 1.6, "parts": {"a": 3}}', "")
    curves = read_curves(path)
    assert {series.name: (series.steps, series.values) for series in curves.series} == {
        "loss": ((1, 2), (2.0, 1.5)),
        "validation_loss": ((2,), (1.6,)),
        "parts/a": ((2,), (3.0,)),
    }


def test_a_torn_last_line_is_left_out_without_a_word(tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, '{"step": 1, "loss": 2.0}', '{"step": 2, "lo'))
    assert curves["loss"].values == (2.0,)
    assert curves.unreadable_lines == 0


def test_a_damaged_line_in_the_middle_is_counted(tmp_path: Path) -> None:
    assert read_curves(written(tmp_path, "{oops", '["no", "object"]', '{"loss": 1}', '{"step": 2, "loss": 1}', "")).unreadable_lines == 3


def test_a_repeated_step_keeps_what_was_logged_last(tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, '{"step": 1, "loss": 9}', '{"step": 1, "loss": 2}', ""))
    assert curves["loss"].values == (2.0,)


def test_what_is_not_finite_is_set_aside_with_its_step(tmp_path: Path) -> None:
    lines = (json.dumps({"step": step, "loss": value}) for step, value in enumerate([1.0, math.nan, None, math.inf, 2.0]))
    series = read_curves(written(tmp_path, *lines, ""))["loss"]
    assert series.values == (1.0, 2.0)
    assert series.non_finite == (1, 2, 3)


def test_a_missing_file_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "metrics.jsonl").series == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=600), st.integers(4, 120))
def test_thinning_keeps_ends_and_extremes_and_the_limit(ys: list[float], limit: int) -> None:
    xs = [float(i) for i in range(len(ys))]
    kept_xs, kept_ys = thin(xs, ys, limit)
    assert len(kept_xs) <= limit
    assert (kept_xs[0], kept_xs[-1]) == (xs[0], xs[-1])
    assert (min(kept_ys), max(kept_ys)) == (min(ys), max(ys))
    assert all(ys[int(x)] == y for x, y in zip(kept_xs, kept_ys, strict=True))
    assert kept_xs == sorted(set(kept_xs))


def test_one_spike_among_a_million_points_survives() -> None:
    ys = [0.0] * 100_000
    ys[77_777] = 5.0
    xs, kept = thin(range(len(ys)), ys, 200)
    assert 77_777 in xs
    assert 5.0 in kept


def test_a_trend_of_a_constant_is_the_constant_and_of_a_line_the_line_inside() -> None:
    assert trend([3.0] * 50) == pytest.approx([3.0] * 50)
    assert trend([float(i) for i in range(100)])[10:90] == pytest.approx(list(range(10, 90)))


def test_noise_tells_a_smooth_curve_from_a_noisy_one() -> None:
    rng = random.Random(3)
    assert noise([math.exp(-i / 50) for i in range(200)]) < 0.01
    assert noise([rng.random() for _ in range(200)]) > 0.2
    assert noise([1.0, 1.0, 1.0]) == 0.0
