from itertools import pairwise

import pytest
import torch

from stages.core.config import Optimizer
from stages.core.schedules import adamw, learning_rate_factor


def factors(schedule, steps=100, warmup=0.1, final=0.1):
    settings = Optimizer(learning_rate=0.5, schedule=schedule, warmup=warmup, final=final)
    return [learning_rate_factor(step, steps, settings) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "constant"])
def test_the_rate_rises_linearly_and_the_first_step_learns(schedule):
    rising = factors(schedule)[:10]
    assert rising[0] > 0
    differences = [b - a for a, b in pairwise(rising)]
    assert differences == pytest.approx([differences[0]] * 9)
    assert max(factors(schedule)) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear"])
def test_the_rate_falls_to_its_final_share(schedule):
    falling = factors(schedule)[10:]
    assert all(a >= b for a, b in pairwise(falling))
    assert 0.1 <= falling[-1] < 0.16


def test_wsd_is_stable_until_its_last_fifth_and_constant_stays():
    assert factors("wsd")[10:81] == [1.0] * 71
    assert factors("constant")[10:] == [1.0] * 90


def test_weight_decay_touches_matrices_only(llama):
    model = llama(tied_embeddings=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = adamw([model], Optimizer(learning_rate=1e-3, weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    untouched = {names[id(parameter)] for parameter in plain["params"]}
    assert all("norm" in name or "embed" in name for name in untouched)
    assert any("embed" in name for name in untouched)
    assert {names[id(parameter)] for parameter in decayed["params"]} | untouched == set(names.values())


def test_a_parameter_shared_by_two_models_is_optimised_once():
    shared = torch.nn.Linear(2, 2)
    groups = adamw([shared, torch.nn.Sequential(shared)], Optimizer(learning_rate=1e-3)).param_groups
    assert sum(len(group["params"]) for group in groups) == 2
