"""The whole loop on a task whose optimum is known: pi* is proportional to pi_ref exp(r / beta)."""

import pytest
import torch

from stages.core.generation import Completion
from stages.ppo.algorithm import gae, kl_estimate, token_rewards
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.toy import ACTIONS, EOS, LONGEST, SEQUENCES, STATE_OF, STATES, Toy, kl


def never() -> bool:
    return False


def distance_from_optimum(toy: Toy, beta: float, folder, *, temperature: float = 1.0, seed: int = 0, **changes) -> float:
    config = settings(kl={"coefficient": beta}, sampling={"temperature": temperature, "max_new_tokens": LONGEST}, **changes)
    run = training(toy, config, folder, seed=seed)
    run.train(never)
    logp_S = toy.logp_S(run.players.policy.module.logits_XA.detach().double() / temperature)
    return kl(logp_S, toy.optimum_S(beta, temperature))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("beta", "temperature"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.7)])
def test_ppo_finds_the_optimum_of_the_kl_regularised_objective(seed, beta, temperature, tmp_path):
    assert distance_from_optimum(Toy(seed), beta, tmp_path, temperature=temperature, seed=seed) <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_at_rest_for_k1_in_the_reward_and_for_no_other_estimator(seed):
    """At pi* every advantage of the k1 reward is exactly zero; k2 and k3 pull away from it."""
    toy, beta = Toy(seed), 0.5
    optimum = optimal_logits(toy, beta)
    assert kl(toy.logp_S(optimum), toy.optimum_S(beta)) == pytest.approx(0.0, abs=1e-12)
    largest = {}
    for estimator in ("k1", "k2", "k3"):
        kl_ST = kl_estimate(toy.logp_ST(optimum), toy.logp_ST(toy.reference_XA), estimator)
        rewards_ST = token_rewards(toy.rewards_S, kl_ST, toy.mask_ST, beta)
        values_ST = toy.exact_values_ST(optimum, rewards_ST)
        largest[estimator] = float(gae(rewards_ST, values_ST, toy.mask_ST, gamma=1.0, lam=1.0).abs().max())
    assert largest["k1"] < 1e-10
    assert min(largest["k2"], largest["k3"]) > 0.05


def optimal_logits(toy: Toy, beta: float) -> torch.Tensor:
    """The table whose sequences have the optimum's probabilities: from the soft values of the states, last words first."""
    weight = {tuple(sequence): float(logp) for sequence, logp in zip(SEQUENCES, toy.optimum_S(beta), strict=True)}
    table = torch.full((len(STATES), ACTIONS), -torch.inf, dtype=torch.float64)
    for state in sorted(STATES, key=len, reverse=True):
        for action in range(ACTIONS):
            following = (*state, action)
            ends = action == EOS or len(following) == LONGEST
            mass = weight[following] if ends else float(table[STATE_OF[following]].logsumexp(0))
            table[STATE_OF[tuple(state)], action] = mass
    return table


class Proportional:
    """An engine that answers with every sequence as often as its probability says, so that expectations carry no sampling noise."""

    def __init__(self, toy: Toy, logits_XA: torch.Tensor, count: int) -> None:
        shares = toy.logp_S(logits_XA).exp() * count
        times = shares.floor().long()
        rest = (shares - times).argsort(descending=True)[: count - int(times.sum())]
        times[rest] += 1
        logp_ST = toy.logp_ST(logits_XA).tolist()
        self.answers = [
            Completion(sequence, sequence[-1] == EOS, logp_ST[index][: len(sequence)])
            for index, sequence in enumerate(SEQUENCES)
            for _ in range(int(times[index]))
        ]

    def sync(self) -> None:
        pass

    def generate(self, prompts, **_) -> list[Completion]:
        return self.answers[: len(prompts)]


@pytest.mark.slow
@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_the_critic_learns_the_exact_value_of_every_state(lam, tmp_path):
    """Value-only training: V within 0.05 of the exact expectation wherever a twentieth of the answers pass, and hardly any variance unexplained."""
    toy, count = Toy(0), 512
    config = settings(steps=101, batch=count, minibatches=2, critic_warmup=100, lam=lam, kl={"coefficient": 0.0})
    run = training(toy, config, tmp_path, engine=Proportional(toy, toy.reference_XA, count))
    run.train(never)
    rewards_ST = token_rewards(toy.rewards_S, torch.zeros(40, LONGEST, dtype=torch.float64), toy.mask_ST, 0.0)
    exact_ST = toy.exact_values_ST(toy.reference_XA, rewards_ST)
    found_ST = run.players.critic.module.values_X.detach().double()[toy.states_ST]
    logp_ST = torch.where(toy.mask_ST, toy.logp_ST(toy.reference_XA), 0.0)
    reach_ST = (logp_ST.cumsum(1) - logp_ST).exp()
    seen_ST = toy.mask_ST & (reach_ST > 0.05)
    assert int(seen_ST.sum()) > 40
    assert float((found_ST - exact_ST)[seen_ST].abs().max()) <= 0.05
    weights_ST = (toy.logp_S(toy.reference_XA).exp()[:, None] * toy.mask_ST).double()
    mean = (exact_ST * weights_ST).sum() / weights_ST.sum()
    residual, spread = (((exact_ST - other).square() * weights_ST).sum() for other in (found_ST, mean))
    assert float(1 - residual / spread) >= 0.95
