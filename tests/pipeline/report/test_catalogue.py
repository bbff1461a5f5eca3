"""Laws of naming: every metric has one place, and numbers read as a person writes them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.catalogue import GROUPS, KNOWN, Named, duration, grouped, meaning, parse, pretty

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_/.0123456789", min_size=1, max_size=24)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(NAMES, st.sampled_from(list(KNOWN))), unique=True, max_size=30))
def test_every_metric_stands_in_exactly_one_chart_of_a_known_group(names: list[str]) -> None:
    groups = grouped(names)
    assert sorted(name for _, charts in groups for chart in charts for name in chart) == sorted(names)
    order = [GROUPS.index(group) for group, _ in groups]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("loss", Named("loss")),
        ("validation_loss", Named("loss", True)),
        ("eval/loss", Named("loss", True)),
        ("held_out_kl", Named("kl", True)),
        ("kl_coefficient", Named("kl_coefficient")),
        ("coefficient", Named("kl_coefficient")),
        ("lr", Named("learning_rate")),
        ("reward_judge", Named("reward", part="judge")),
        ("rewards/judge", Named("reward", part="judge")),
        ("accuracy_people", Named("accuracy", part="people")),
        ("policy_grad_norm", Named("grad_norm", part="policy")),
        ("seconds_rollout", Named("phase_seconds", part="rollout")),
        ("held_out_reward_before", Named("reward", True, "before")),
        ("something_new", Named("something_new")),
    ],
)
def test_a_name_is_taken_apart_by_the_catalogue(name: str, named: Named) -> None:
    assert parse(name) == named


def test_a_loss_and_its_held_out_twin_share_a_chart() -> None:
    assert grouped(["loss", "validation_loss"]) == [("Learning", [["loss", "validation_loss"]])]


def test_unknown_names_get_a_group_by_what_they_resemble() -> None:
    groups = {name: meaning(name).group for name in ("gpu_memory", "frob_per_second", "reward_hat", "critic_gain", "puzzlement")}
    assert groups == {
        "gpu_memory": "Pace and memory", "frob_per_second": "Pace and memory", "reward_hat": "Reward", "critic_gain": "Policy", "puzzlement": "Learning",
    }  # fmt: skip
    assert meaning("finish_rate").unit == "%"


def test_numbers_read_as_a_person_writes_them() -> None:
    told = [pretty(value) for value in (None, 0.0, 3.0, 1.23456, 123.456, 3e-4, 812_672.0, float("nan"), -1.5)]
    assert told == ["–", "0", "3", "1.235", "123.5", "3.00e-4", "812.7 k", "nan", "-1.500"]
    assert (pretty(0.771, "%"), pretty(3_251_200, "B"), pretty(4.0, "nats")) == ("77.1 %", "3.10 MiB", "4 nats")


def test_durations_read_as_a_person_says_them() -> None:
    assert [duration(value) for value in (None, 3.14, 48, 425, 11_520, 187_200, 3600)] == [
        "–",
        "3.1 s",
        "48 s",
        "7 min 5 s",
        "3 h 12 min",
        "2 d 4 h",
        "1 h",
    ]


def test_what_a_part_of_a_reward_is_made_of_has_a_chart_of_its_own() -> None:
    names = [
        "reward",
        "held_out_reward",
        "reward_judge",
        "reward_world",
        "reward_world_correct",
        "held_out_reward_world_correct",
        "reward_std",
    ]
    [(group, charts)] = grouped(names)
    assert group == "Reward"
    assert charts == [
        ["reward", "held_out_reward", "reward_judge", "reward_world"],
        ["reward_world_correct", "held_out_reward_world_correct"],
        ["reward_std"],
    ]
