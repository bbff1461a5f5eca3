"""Which KL estimator is right where, decided on a task whose objective can be differentiated exactly.

Every terminal sequence is weighted by its probability, lambda is 1, nothing is whitened and the ratio is 1: then PPO's first gradient is either
that of E[r] - beta KL(policy || reference), or it is not.
"""

import pytest
import torch
from torch import Tensor

from stages.ppo.algorithm import Estimator, gae, kl_estimate, policy_loss, token_rewards
from tests.stages.ppo.toy import Toy

BETA = 0.3


def exact_gradient(toy: Toy) -> Tensor:
    logits = toy.policy_XA.clone().requires_grad_()
    (-toy.objective(logits, BETA)).backward()
    assert logits.grad is not None
    return logits.grad


def ppo_gradient(
    toy: Toy,
    *,
    in_reward: Estimator | None = "k1",
    in_loss: Estimator | None = None,
    lam: float = 1.0,
    baseline: float = 0.0,
    shift_score: int = 0,
    eos_masked: bool = False,
) -> Tensor:
    """The gradient of PPO's loss on all 40 sequences at once; the two last arguments put a fault in."""
    logits = toy.policy_XA.clone().requires_grad_()
    logp_ST = toy.logp_ST(logits)
    mask_ST = toy.mask_ST & ~((toy.actions_ST == 0) & toy.mask_ST) if eos_masked else toy.mask_ST
    alive_S = mask_ST.any(1)
    reference_ST = toy.logp_ST(toy.reference_XA)
    kl_ST = kl_estimate(logp_ST.detach(), reference_ST, in_reward) if in_reward else torch.zeros_like(reference_ST)
    rewards_ST = token_rewards(0 * toy.rewards_S[alive_S], kl_ST[alive_S], mask_ST[alive_S], BETA)
    last_S = (mask_ST.sum(1)[alive_S] - 1 - shift_score).clamp(min=0)
    rewards_ST[torch.arange(len(last_S)), last_S] += toy.rewards_S[alive_S]
    if not shift_score and not eos_masked:
        assert torch.equal(rewards_ST, token_rewards(toy.rewards_S, kl_ST, mask_ST, BETA))
    values_ST = torch.full_like(rewards_ST, baseline)
    advantages_ST = gae(rewards_ST, values_ST, mask_ST[alive_S], gamma=1.0, lam=lam)
    weights_ST = toy.logp_S(toy.policy_XA).exp()[:, None].expand_as(mask_ST)
    loss = policy_loss(
        logp_ST[mask_ST], logp_ST.detach()[mask_ST], advantages_ST[mask_ST[alive_S]], weights_ST[mask_ST], clip_low=0.2, clip_high=0.2
    ).loss
    if in_loss:
        loss = loss + BETA * (kl_estimate(logp_ST, reference_ST, in_loss) * weights_ST)[mask_ST].sum()
    loss.backward()
    assert logits.grad is not None
    return logits.grad


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("seed", range(4))
def test_k1_in_the_reward_gives_the_exact_gradient(seed):
    toy = Toy(seed)
    assert relative_error(ppo_gradient(toy), exact_gradient(toy)) < 1e-10
    assert relative_error(ppo_gradient(Toy(seed, torch.float32)), exact_gradient(Toy(seed, torch.float32))) < 1e-5


def test_a_constant_value_does_not_change_the_gradient():
    toy = Toy(0)
    assert relative_error(ppo_gradient(toy, baseline=0.7), exact_gradient(toy)) < 1e-10


@pytest.mark.parametrize(
    ("wrong", "least"),
    [
        ({"in_reward": "k2"}, 0.02),
        ({"in_reward": "k3"}, 0.02),
        ({"in_reward": None, "in_loss": "k1"}, 0.02),
        ({"in_reward": None, "in_loss": "k2"}, 0.005),
        ({"in_reward": None, "in_loss": "k3"}, 0.02),
        ({"lam": 0.5}, 0.02),
        ({"shift_score": 1}, 0.05),
        ({"eos_masked": True}, 0.05),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("seed", range(3))
def test_everything_else_gives_another_gradient(seed, wrong, least):
    """The test above is sharp: other estimators and planted faults are far from exact."""
    toy = Toy(seed)
    error = relative_error(ppo_gradient(toy, **wrong), exact_gradient(toy))
    assert error > least
