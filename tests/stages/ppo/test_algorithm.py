"""The formulas against closed forms, brute force and finite differences; what stands in masked slots never matters."""

import math

import pytest
import torch
from torch import Tensor

from stages.ppo.algorithm import (
    KLController,
    explained_variance,
    finished_scores,
    gae,
    kl_estimate,
    moments,
    overlong_penalty,
    policy_loss,
    token_rewards,
    token_weights,
    value_loss,
    whiten,
)

POISON = (float("nan"), 1e9, -float("inf"))


def ragged(seed: int, rows: int = 7, columns: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values (float64) and a mask with lengths from 1 to all columns."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = 1, columns
    mask = torch.arange(columns) < lengths[:, None]
    return *torch.randn(2, rows, columns, generator=generator, dtype=torch.float64), mask


def gae_by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The O(T^2) sum of equation 16."""
    values = [*values, 0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(deltas))) for t in range(len(deltas))]


# --- generalized advantage estimation ---


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (0.99, 0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_gae_is_the_sum_that_defines_it(seed, gamma, lam):
    rewards, values, mask = ragged(seed)
    found = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(len(mask)):
        n = int(mask[row].sum())
        expected = gae_by_definition(rewards[row, :n].tolist(), values[row, :n].tolist(), gamma, lam)
        torch.testing.assert_close(found[row, :n], torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)
        assert (found[row, n:] == 0).all()


def test_with_lambda_one_advantage_is_discounted_return_minus_value():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.2, 0.1, 7.0]])
    mask = torch.tensor([[True, True, True, False]])
    expected = torch.tensor([[0.81 - 0.5, 0.90 - 0.2, 1.0 - 0.1, 0.0]])
    torch.testing.assert_close(gae(rewards, values, mask, gamma=0.9, lam=1.0), expected)


@pytest.mark.parametrize("poison", POISON)
def test_what_stands_in_masked_slots_changes_no_advantage(poison):
    rewards, values, mask = ragged(3)
    clean = gae(rewards, values, mask, gamma=0.99, lam=0.9)
    dirty = gae(rewards.masked_fill(~mask, poison), values.masked_fill(~mask, poison), mask, gamma=0.99, lam=0.9)
    assert torch.equal(clean, dirty)


def test_padding_columns_and_the_order_of_rows_change_no_advantage():
    rewards, values, mask = ragged(4)
    clean = gae(rewards, values, mask, gamma=0.99, lam=0.9)
    wide = [torch.nn.functional.pad(x, (0, 10)) for x in (rewards, values, mask)]
    assert torch.equal(gae(*wide, gamma=0.99, lam=0.9)[:, : mask.size(1)], clean)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gae(rewards[order], values[order], mask[order], gamma=0.99, lam=0.9), clean[order])


def test_a_hole_in_the_mask_is_stepped_over():
    rewards, values, _ = ragged(5)
    mask = torch.tensor([True, True, False, False, True, False, True, True, False]).expand(len(rewards), -1)
    holes = gae(rewards.masked_fill(~mask, float("nan")), values.masked_fill(~mask, 1e9), mask, gamma=0.97, lam=0.8)
    keep = mask[0]
    packed = gae(rewards[:, keep], values[:, keep], torch.ones(len(rewards), int(keep.sum()), dtype=torch.bool), gamma=0.97, lam=0.8)
    assert torch.equal(holes[:, keep], packed)
    assert (holes[:, ~keep] == 0).all()


# --- rewards ---


def test_the_score_falls_on_the_last_real_token_of_ragged_rows():
    mask = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    rewards = token_rewards(torch.tensor([5.0, 6.0, 7.0]), torch.ones(3, 3), mask, coefficient=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[4.9, 0.0, 0.0], [-0.1, 5.9, 0.0], [-0.1, -0.1, 6.9]]))


def test_nan_in_masked_log_probabilities_never_reaches_rewards():
    _, values, mask = ragged(6)
    kl = kl_estimate(values.masked_fill(~mask, float("nan")), values * 0.5, "k1")
    rewards = token_rewards(torch.ones(len(mask)), kl, mask, 0.1)
    assert rewards.isfinite().all()
    assert torch.equal(rewards, token_rewards(torch.ones(len(mask)), kl.masked_fill(~mask, 3.0), mask, 0.1))


def test_an_answer_without_a_token_is_refused():
    with pytest.raises(ValueError, match="without a token"):
        token_rewards(torch.ones(2), torch.zeros(2, 2), torch.tensor([[True, True], [False, False]]), 0.1)


def test_only_unfinished_answers_pay_the_missing_eos_penalty():
    found = finished_scores(torch.tensor([2.0, 2.0]), torch.tensor([True, False]), 1.5)
    assert found.tolist() == [2.0, 0.5]


def test_overlong_answers_pay_in_a_line_that_begins_at_the_buffer():
    found = overlong_penalty(torch.tensor([1, 80, 90, 100]), limit=100, buffer=20)
    assert found.tolist() == [0.0, 0.0, -0.5, -1.0]


# --- KL estimators and controller ---


def test_estimators_are_schulmans():
    logp, reference = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    difference = logp - reference
    assert torch.equal(kl_estimate(logp, reference, "k1"), difference)
    torch.testing.assert_close(kl_estimate(logp, reference, "k2"), difference**2 / 2)
    torch.testing.assert_close(kl_estimate(logp, reference, "k3"), (-difference).exp() - 1 + difference)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    logp, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = float((logp.exp() * (logp - reference)).sum())
    for estimator in ("k1", "k3"):
        assert float((logp.exp() * kl_estimate(logp, reference, estimator)).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((logp.exp() * kl_estimate(logp, reference, "k2")).sum()) != pytest.approx(exact, abs=1e-3)
    assert (kl_estimate(logp, reference, "k3") >= 0).all()


def test_a_fixed_coefficient_never_moves_and_an_adaptive_one_follows_ziegler():
    fixed = KLController(0.05)
    fixed.adapt(100.0, 256)
    assert fixed.coefficient == 0.05
    adaptive = KLController(0.1, target=2.0, horizon=1000)
    adaptive.adapt(2.2, 100)
    assert adaptive.coefficient == pytest.approx(0.1 * (1 + 0.1 * 100 / 1000))
    adaptive = KLController(0.1, target=2.0, horizon=1000)
    adaptive.adapt(1000.0, 100)
    assert adaptive.coefficient == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000)), "the proportional error is limited to 20 %"


# --- whitening and moments ---


def test_whitened_advantages_have_mean_zero_and_deviation_one_over_real_tokens():
    values, _, mask = ragged(7)
    found = whiten(values * 3 + 5, mask)
    assert float(found[mask].mean()) == pytest.approx(0, abs=1e-12)
    assert float(found[mask].std(unbiased=False)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("poison", POISON)
def test_whitening_sees_neither_masked_slots_nor_padding(poison):
    values, _, mask = ragged(8)
    clean = whiten(values, mask)
    assert torch.equal(whiten(values.masked_fill(~mask, poison), mask), clean)
    wide = [torch.nn.functional.pad(x, (0, 10)) for x in (values, mask)]
    assert torch.equal(whiten(*wide)[:, : mask.size(1)], clean)


def test_whitening_does_not_depend_on_how_rows_are_spread_over_processes():
    values, _, mask = ragged(9)
    whole = whiten(values, mask)
    parts = [slice(0, 2), slice(2, None)]
    sums: list[list[Tensor]] = []  # the two reductions of each process, recorded first and then given back summed
    for part in parts:
        record: list[Tensor] = []
        mean = moments(values, mask).mean

        def first_pass(tensor: Tensor, record: list[Tensor] = record, mean: float = mean) -> Tensor:
            record.append(tensor)
            return torch.tensor([1.0, mean], dtype=torch.float64) if tensor.numel() == 2 else tensor

        moments(values[part], mask[part], first_pass)
        sums.append(record)
    totals = [sum(each) for each in zip(*sums, strict=True)]
    for part in parts:
        replies = iter(totals)
        found = whiten(values[part], mask[part], lambda _, replies=replies: next(replies))
        torch.testing.assert_close(found, whole[part], atol=1e-12, rtol=0)


def test_equal_advantages_are_centred_and_not_blown_up():
    values = 0.7 + 1e-8 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = whiten(values, torch.ones(3, 4, dtype=torch.bool))
    assert found.abs().max() < 1e-6


# --- losses ---


def policy_loss_by_cases(logp: float, old: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    """The clipped surrogate as a table of cases, not as min and clamp."""
    ratio = math.exp(logp - old)
    if advantage >= 0:
        return -advantage * min(ratio, 1 + high)
    bound = math.inf if dual is None else dual
    return -advantage * min(max(ratio, 1 - low), bound)


@pytest.mark.parametrize("dual", [None, 3.0])
def test_the_policy_loss_is_the_table_of_its_cases(dual):
    generator = torch.Generator().manual_seed(1)
    logp, old, advantages = torch.randn(3, 200, generator=generator, dtype=torch.float64)
    found = policy_loss(logp, old, advantages, torch.full_like(logp, 1 / 200), clip_low=0.2, clip_high=0.28, dual_clip=dual)
    cases = zip(logp.tolist(), old.tolist(), advantages.tolist(), strict=True)
    expected = sum(policy_loss_by_cases(*case, 0.2, 0.28, dual) for case in cases) / 200
    assert float(found.loss) == pytest.approx(expected, abs=1e-12)


def value_loss_by_cases(value: float, old: float, target: float, clip: float | None) -> float:
    """A value that moved further than the clip is charged as if it stood there, unless where it stands costs more."""
    free = (value - target) ** 2
    if clip is None or abs(value - old) <= clip:
        return free / 2
    return max(free, (old + math.copysign(clip, value - old) - target) ** 2) / 2


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_value_loss_is_the_table_of_its_cases(clip):
    generator = torch.Generator().manual_seed(2)
    values, old, targets = torch.randn(3, 200, generator=generator, dtype=torch.float64)
    found = value_loss(values, old, targets, torch.full_like(values, 1 / 200), clip=clip)
    cases = list(zip(values.tolist(), old.tolist(), targets.tolist(), strict=True))
    assert float(found.loss) == pytest.approx(sum(value_loss_by_cases(*case, clip) for case in cases) / 200, abs=1e-12)
    held = [value_loss_by_cases(*case, clip) > value_loss_by_cases(*case, None) for case in cases]
    assert found.clipped_N.tolist() == held
    assert any(held) == (clip is not None)


def test_recorded_numbers_of_the_losses():
    logp, old = torch.tensor([-1.0, -0.5, -2.0, -1.2]), torch.tensor([-1.1, -1.0, -1.0, -1.2])
    advantages, weights = torch.tensor([1.0, 2.0, -1.0, -3.0]), torch.full((4,), 0.25)
    found = policy_loss(logp, old, advantages, weights, clip_low=0.2, clip_high=0.2)
    # ratios e^0.1, e^0.5, e^-1, 1: -(1.105171 + 2 * 1.2 - 0.8 - 3) / 4
    assert float(found.loss) == pytest.approx(0.0737073, abs=1e-6)
    assert found.clipped_N.tolist() == [False, True, True, False]
    values = value_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.1]), torch.tensor([0.4, 1.0]), torch.full((2,), 0.5), clip=0.2)
    # errors 0.36 and 1.0; the clipped values 0.7 and 0.0 have 0.09 and 1.0: 0.5 * mean(0.36, 1.0)
    assert float(values.loss) == pytest.approx(0.34, abs=1e-6)


def difference_quotient(function, at: float, step: float = 1e-6) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("advantage", [1.3, -0.7])
@pytest.mark.parametrize("log_ratio", [-0.5, -0.23, -0.22, -0.1, 0.0, 0.1, 0.24, 0.25, 0.5, 1.05, 1.2])
@pytest.mark.parametrize("dual", [None, 3.0])
def test_policy_gradient_equals_finite_differences_on_both_sides_of_each_clip(advantage, log_ratio, dual):
    def loss_at(logp: Tensor) -> Tensor:
        one = logp.new_ones(1)
        return policy_loss(logp, 0 * one - 1.0, advantage * one, one, clip_low=0.2, clip_high=0.28, dual_clip=dual).loss

    logp = torch.tensor([log_ratio - 1.0], dtype=torch.float64, requires_grad=True)
    loss_at(logp).backward()
    expected = difference_quotient(lambda x: float(loss_at(torch.tensor([x], dtype=torch.float64))), float(logp.detach()))
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("value", [-0.6, -0.21, -0.19, 0.0, 0.19, 0.21, 0.6])
@pytest.mark.parametrize("target", [-0.3, 0.1, 0.35])
def test_value_gradient_equals_finite_differences_on_both_sides_of_the_clip(clip, value, target):
    def loss_at(values: Tensor) -> Tensor:
        one = values.new_ones(1)
        return value_loss(values, 0 * one, target * one, one, clip=clip).loss

    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    loss_at(values).backward()
    expected = difference_quotient(lambda x: float(loss_at(torch.tensor([x], dtype=torch.float64))), value)
    assert values.grad is not None
    assert float(values.grad) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_estimator_gradients_equal_finite_differences(estimator):
    reference = torch.tensor([-1.3], dtype=torch.float64)
    logp = torch.tensor([-0.8], dtype=torch.float64, requires_grad=True)
    kl_estimate(logp, reference, estimator).backward()
    expected = difference_quotient(lambda x: float(kl_estimate(torch.tensor([x], dtype=torch.float64), reference, estimator)), -0.8)
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_weights_of_all_parts_of_a_step_add_up_to_one_however_it_is_cut(aggregation):
    _, _, mask = ragged(10)
    tokens, answers = float(mask.sum()), float(len(mask))
    whole = token_weights(mask, tokens, answers, aggregation)
    cut = torch.cat([token_weights(part, tokens, answers, aggregation) for part in mask.split(2)])
    assert torch.equal(whole, cut)
    assert float(whole.sum()) == pytest.approx(1.0, abs=1e-6)
    if aggregation == "sequence":
        assert float(whole[: int(mask[0].sum())].sum()) == pytest.approx(1 / answers)


def test_an_enormous_log_ratio_gives_a_finite_loss_and_gradient():
    logp = torch.tensor([0.0], requires_grad=True)
    found = policy_loss(logp, torch.tensor([-500.0]), torch.tensor([-1.0]), torch.ones(1), clip_low=0.2, clip_high=0.2)
    found.loss.backward()
    assert found.loss.isfinite()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()


# --- looking at it ---


def test_explained_variance_of_a_perfect_a_constant_and_a_wrong_critic():
    returns, _, mask = ragged(11)
    noise = returns.masked_fill(~mask, float("nan"))
    assert explained_variance(returns, noise, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(returns, 3.0), noise, mask) == pytest.approx(0.0, abs=1e-12)
    assert explained_variance(-returns, noise, mask) < 0
    assert explained_variance(returns, torch.ones_like(returns), mask) == 0.0
