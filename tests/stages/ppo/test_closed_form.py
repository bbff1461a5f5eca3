"""The whole loop on a task whose optimum is known: pi* is proportional to pi_ref exp(r / beta)."""

import pytest

from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.toy import LONGEST, Toy, kl


def never() -> bool:
    return False


def distance_from_optimum(toy: Toy, beta: float, folder, *, temperature: float = 1.0, seed: int = 0, **changes) -> float:
    config = settings(kl={"coefficient": beta}, sampling={"temperature": temperature, "max_new_tokens": LONGEST}, **changes)
    run = training(toy, config, folder, seed=seed)
    run.train(never)
    logp_S = toy.logp_S(run.players.policy.module.logits_XA.detach().double() / temperature)
    return kl(logp_S, toy.optimum_S(beta, temperature))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beta", "temperature"), [(0.5, 1.0), (0.25, 1.0), (0.5, 0.7)])
def test_ppo_finds_the_optimum_of_the_kl_regularised_objective(seed, beta, temperature, tmp_path):
    assert distance_from_optimum(Toy(seed), beta, tmp_path, temperature=temperature, seed=seed) <= 0.01
