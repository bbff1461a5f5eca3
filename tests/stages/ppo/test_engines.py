"""A sampler whose arithmetic is not the trainer's: the loop sees it, and importance weights correct for it."""

import pytest
import torch

from stages.ppo.algorithm import importance_weights, policy_loss, token_rewards
from stages.ppo.config import PPO
from tests.stages.ppo.tabular import TableEngine, TablePolicy, settings, training
from tests.stages.ppo.toy import LONGEST, STATES, Toy, kl


class Crooked(TableEngine):
    """Draws from the policy's logits plus a fixed error, and says so in its log-probabilities, as another engine with other kernels would."""

    def __init__(self, policy: TablePolicy, error_XA: torch.Tensor) -> None:
        super().__init__(policy)
        self.error_XA = error_XA

    def generate(self, prompts, **options):
        true = self.policy
        self.policy = TablePolicy(true.logits_XA.detach() + self.error_XA)
        try:
            return super().generate(prompts, **options)
        finally:
            self.policy = true


def run_with(folder, error: float, cap: float | None, steps: int = 200) -> tuple[float, dict]:
    toy = Toy(0)
    generator = torch.Generator().manual_seed(7)
    policy = TablePolicy(toy.reference_XA)
    engine = Crooked(policy, error * torch.randn(len(STATES), 4, generator=generator))
    config = settings(kl={"coefficient": 0.5}, lam=1.0, steps=steps, importance_cap=cap, sampling={"max_new_tokens": LONGEST})
    run = training(toy, config, folder, policy=policy, engine=engine)
    run.train(lambda: False)
    return kl(toy.logp_S(policy.logits_XA.detach().double()), toy.optimum_S(0.5)), run.watch.lines[0]


def gradient_error(seed: int, cap: float | None, longest: int) -> float:
    """Relative error of the policy's first gradient when sequences are drawn from crooked logits, on answers of at most `longest` tokens."""
    toy = Toy(seed)
    crooked = toy.policy_XA + 0.5 * torch.randn(len(STATES), 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def gradient(drawn_XA: torch.Tensor, cap: float | None) -> torch.Tensor:
        logits = toy.policy_XA.clone().requires_grad_()
        logp_ST, sampled_ST = toy.logp_ST(logits), toy.logp_ST(drawn_XA)
        mask_ST = toy.mask_ST & (torch.arange(LONGEST) < longest)
        values_ST = toy.exact_values_ST(toy.policy_XA, token_rewards(toy.rewards_S, torch.zeros_like(logp_ST), toy.mask_ST, 0.0))
        # What each token is worth to the policy, exactly: the value after it less the value before it.
        after_ST = torch.cat([values_ST[:, 1:], torch.zeros_like(values_ST[:, :1])], dim=1)
        last_ST = torch.arange(LONGEST) == toy.mask_ST.sum(1, keepdim=True) - 1
        worth_ST = torch.where(last_ST, toy.rewards_S[:, None], after_ST) - values_ST
        if cap is not None:
            worth_ST = worth_ST * importance_weights(logp_ST.detach(), sampled_ST, mask_ST, cap)
        shares_ST = toy.logp_S(drawn_XA).exp()[:, None].expand_as(mask_ST)
        loss = policy_loss(
            logp_ST[mask_ST], logp_ST.detach()[mask_ST], worth_ST[mask_ST], shares_ST[mask_ST], clip_low=0.2, clip_high=0.2
        ).loss
        loss.backward()
        assert logits.grad is not None
        return logits.grad

    exact = gradient(toy.policy_XA, None)
    return float((gradient(crooked, cap) - exact).norm() / exact.norm())


@pytest.mark.parametrize("seed", range(3))
def test_importance_weights_make_the_gradient_of_crooked_samples_right(seed):
    """Exactly for the first token of an answer; for later ones, whose beginnings are crooked too, by far more right than without."""
    assert gradient_error(seed, 1e6, longest=1) < 1e-10
    assert gradient_error(seed, None, longest=1) > 0.1
    assert gradient_error(seed, 1e6, longest=3) < 0.75 * gradient_error(seed, None, longest=3)
    assert gradient_error(seed, 1e6, longest=1) < gradient_error(seed, 1.2, longest=1) < gradient_error(seed, None, longest=1)


@pytest.mark.slow
def test_with_importance_weights_a_crooked_sampler_still_leads_to_the_optimum(tmp_path):
    """The optimum is at rest whatever the sampler, because there every advantage is zero; the weights must not spoil that."""
    corrected, line = run_with(tmp_path, 0.5, cap=10.0)
    assert corrected <= 0.02
    assert line["sampler_difference"] > 0.1
    assert line["sampler_kl"] > 0.01
    assert line["importance_max"] > 1.1


def test_the_mismatch_is_measured_as_it_is(tmp_path):
    """The logged KL of sampler and trainer is the exact one, up to sampling; an engine that is the trainer has none, and is not warned of."""
    _, crooked = run_with(tmp_path / "crooked", 0.5, None, steps=3) if not (tmp_path / "crooked").mkdir() else (0, {})
    _, straight = run_with(tmp_path / "straight", 0.0, None, steps=3) if not (tmp_path / "straight").mkdir() else (0, {})
    assert crooked["sampler_kl"] > 0.01
    assert crooked["importance_mean"] == pytest.approx(1.0, abs=0.1)
    assert straight["sampler_difference"] < 1e-5


def test_vllm_brings_its_cap_and_refuses_adapters_that_are_no_plain_weights():
    base = {"model": "m", "rewards": [{"rule": "exact"}], "prompts": [{"path": "p"}], "steps": 20}
    assert PPO.model_validate(base).cap is None
    assert PPO.model_validate(base | {"engine": "vllm"}).cap == 2.0
    assert PPO.model_validate(base | {"engine": "vllm", "importance_cap": 3.0}).cap == 3.0
    assert PPO.model_validate(base | {"engine": "vllm", "adapter": {"kind": "lora"}})
    for adapter in ({"kind": "ia3"}, {"kind": "lora", "dora": True}, {"kind": "prefix", "hand_over": "continue"}):
        with pytest.raises(ValueError, match="plain LoRA"):
            PPO.model_validate(base | {"engine": "vllm", "adapter": adapter})
