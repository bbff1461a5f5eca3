"""Each sign of trouble is told by its name, and healthy numbers are left in peace."""

import pytest

from stages.contract import StageError
from stages.ppo.guards import SENTENCES, warnings
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.toy import Toy

HEALTHY = {
    "kl": 1.2,
    "kl_k3": 1.3,
    "entropy": 0.5,
    "reward": 0.8,
    "reward_std": 0.6,
    "eos_rate": 0.97,
    "length": 12.0,
    "clip_fraction": 0.05,
    "value_clip_fraction": 0.1,
    "reward_clipped": 0.01,
    "explained_variance": 0.6,
    "advantage_std": 0.4,
    "sampler_difference": 1e-6,
}

SICK = {
    "negative-kl": {"kl": -1.0},
    "kl-explosion": {"kl": 50.0},
    "entropy-collapse": {"entropy": 0.01},
    "equal-rewards": {"reward_std": 0.0},
    "few-ends": {"eos_rate": 0.05},
    "length-runaway": {"length": 40.0, "reward": 2.0, "eos_rate": 0.5},
    "reward-at-clip": {"reward_clipped": 0.3},
    "value-at-clip": {"value_clip_fraction": 0.7},
    "much-clipped": {"clip_fraction": 0.6},
    "blind-critic": {"explained_variance": -0.5},
    "equal-advantages": {"advantage_std": 1e-6},
    "sampler-differs": {"sampler_difference": 0.3},
}


def names(line, history):
    return [warning.name for warning in warnings(line, history)]


def test_healthy_numbers_warn_of_nothing():
    assert names(HEALTHY, []) == []
    assert names(HEALTHY, [HEALTHY] * 30) == []


@pytest.mark.parametrize("name", SENTENCES)
def test_every_sickness_is_called_by_its_name(name):
    sick = HEALTHY | SICK[name]
    assert names(sick, [HEALTHY] + [sick] * 9) == [name]


def test_a_warm_up_step_without_policy_numbers_is_no_trouble():
    line = {key: value for key, value in HEALTHY.items() if key != "clip_fraction"}
    assert names(line, []) == []


@pytest.mark.parametrize("guards", ["warn", "stop"])
def test_a_guard_tells_once_or_stops(guards, tmp_path):
    """Rewards without any difference, on the real loop."""
    toy = Toy(0)
    toy.__dict__["rewards_S"] = 0 * toy.rewards_S
    run = training(toy, settings(steps=4, batch=8, guards=guards), tmp_path)
    if guards == "stop":
        with pytest.raises(StageError, match="equal-rewards at rollout 1"):
            run.train(lambda: False)
        return
    run.train(lambda: False)
    assert run.watch.told["equal-rewards"].startswith("equal-rewards at rollout 1: all answers")
