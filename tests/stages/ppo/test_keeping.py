"""What a run leaves, what it measures against, and running statistics: each off by default, each exact where it is on."""

import numpy as np
import pytest
import torch

from stages.core import metrics
from stages.core.interrupt import Interrupted
from stages.ppo.algorithm import RunningMoments, importance_weights, moments
from stages.ppo.config import PPO
from stages.ppo.keeping import Keeping
from tests.stages.ppo.small import ppo_job
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.test_stage import StopAfter, done, numbers, same, weights
from tests.stages.ppo.toy import Toy, kl


def never() -> bool:
    return False


# --- running normalisation ---


def test_running_moments_are_those_of_all_scores_so_far():
    parts = [torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * n + 3 for n in (5, 1, 8)]
    running = RunningMoments()
    for number, part in enumerate(parts, 1):
        running.add(part)
        seen = torch.cat(parts[:number])
        whole = moments(seen, torch.ones_like(seen, dtype=torch.bool))
        assert (running.count, running.mean, running.variance) == pytest.approx(tuple(whole), abs=1e-10)
    found = running.standardise(torch.cat(parts))
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(found.std(unbiased=False)) == pytest.approx(1.0, abs=1e-12)
    equal = RunningMoments()
    equal.add(torch.full((4,), 2.0, dtype=torch.float64))
    assert equal.standardise(torch.tensor([2.0, 3.0], dtype=torch.float64)).tolist() == [0.0, 1.0]


def test_with_running_normalisation_the_scale_of_rewards_changes_nothing_that_is_learned_and_the_log_shows_them_as_they_are(tmp_path):
    tables, rewards = [], []
    for scale in (1.0, 1000.0):
        toy = Toy(0)
        toy.__dict__["rewards_S"] = toy.rewards_S * scale + 7
        config = settings(steps=6, batch=32, running_normalisation=True, kl={"coefficient": 0.5})
        config = config.model_copy(update={"rewards": ()})
        run = training(toy, config, tmp_path / str(scale))
        run.rollouts.rewards.parts = [
            (name, part.model_copy(update={"clip": None}), scorer) for name, part, scorer in run.rollouts.rewards.parts
        ]
        (tmp_path / str(scale)).mkdir()
        run.train(never)
        tables.append(run.players.policy.module.logits_XA.detach())
        rewards.append(run.watch.lines[0]["reward"] - 7)
    torch.testing.assert_close(tables[0], tables[1], atol=1e-4, rtol=0)
    assert rewards[1] == pytest.approx(1000 * rewards[0], rel=1e-4)


# --- what is left ---


class Weighed:
    """A policy of one number."""

    def __init__(self, value: float) -> None:
        self.value = torch.tensor([value])

    def weights(self):
        return {"w": self.value}

    def put(self, weights):
        self.value = weights["w"].clone()


def test_the_average_is_the_exponential_moving_one_and_is_only_lent_to_an_evaluation():
    policy, keeping, expected = Weighed(1.0), Keeping(decay=0.9), 1.0
    keeping.follow(policy)
    for value in (2.0, -3.0, 5.0):
        policy.value = torch.tensor([value])
        keeping.follow(policy)
        expected = 0.9 * expected + 0.1 * value
    with keeping.shown(policy):
        assert float(policy.value) == pytest.approx(expected)
    assert float(policy.value) == 5.0
    assert keeping.settle(policy, 4)[0] == 4
    assert float(policy.value) == pytest.approx(expected)


def test_the_best_is_the_highest_reward_among_those_within_the_budget_and_the_start_counts():
    policy, keeping = Weighed(0.0), Keeping(best=True, kl_budget=2.0)
    for step, reward, distance in [(0, 0.1, 0.0), (1, 0.5, 1.0), (2, 0.4, 1.5), (3, 0.9, 2.1)]:
        policy.value = torch.tensor([float(step)])
        keeping.offer(step, {"held_out_reward": reward, "held_out_kl": distance}, policy)
    step, notes = keeping.settle(policy, 3)
    assert (step, float(policy.value)) == (1, 1.0)
    assert "after rollout 1" in notes[0]
    assert "within 2 nats" in notes[0]
    without = Keeping(best=True)
    without.offer(0, {"held_out_reward": 0.0, "held_out_kl": 99.0}, policy)
    assert without.chosen["step"] == 0
    last = Keeping()
    last.offer(1, {"held_out_reward": 1.0, "held_out_kl": 0.0}, policy)
    assert last.settle(policy, 7) == (7, [])


ALL = {
    "keep": "best",
    "kl_budget": 5.0,
    "ema": 0.5,
    "running_normalisation": True,
    "importance_cap": 2.0,
    "evaluate_every": 2,
    "critic_warmup": 0,
}


@pytest.mark.parametrize("changes", [ALL, ALL | {"kl_budget": None, "keep": "last", "refresh_reference": 2}], ids=["best", "refreshed"])
def test_interrupted_and_resumed_equals_uninterrupted_with_all_of_it_on(tmp_path, changes, monkeypatch):
    whole, cut = (ppo_job(tmp_path / name / "run", model_reward=True, **changes) for name in ("whole", "cut"))
    result = done(whole)
    monkeypatch.setattr("stages.ppo.run.interruptible", lambda: StopAfter(3))
    with pytest.raises(Interrupted):
        done(cut)
    monkeypatch.undo()
    resumed = done(cut)
    same(whole, cut)
    assert resumed.metrics.keys() == result.metrics.keys()
    assert (whole.folder / "samples.jsonl").read_text() == (cut.folder / "samples.jsonl").read_text()


def test_the_artifact_is_the_policy_that_the_note_speaks_of(tmp_path):
    """A learning rate that ruins the policy: the best within the budget is the start, and that is what is left."""
    job = ppo_job(tmp_path / "run", keep="best", kl_budget=1e-6, policy_optimizer={"learning_rate": 0.5}, critic_warmup=0)
    result = done(job)
    assert any(note.startswith("kept: the policy after rollout 0") for note in result.notes)
    assert result.metrics["held_out_reward"] == result.metrics["held_out_reward_before"]
    assert result.metrics["held_out_kl"] == 0.0
    from safetensors.torch import load_file

    start = load_file(job.inputs["model"].path / "model.safetensors")
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights(job).items() if name in start)


def test_a_refreshed_reference_is_the_policy_of_then(tmp_path):
    job = ppo_job(tmp_path / "run", refresh_reference=3, critic_warmup=0, evaluate_every=1)
    done(job)
    held_out = {line["step"]: line["held_out_kl"] for line in numbers(job) if "held_out_kl" in line}
    rollouts = {line["step"]: line["kl"] for line in numbers(job) if "kl" in line}
    assert held_out[3] != 0.0
    assert rollouts[4] == 0.0
    assert rollouts[3] != 0.0


@pytest.mark.slow
def test_ppo_with_a_refreshed_reference_goes_to_the_optimum_of_that_reference(tmp_path):
    """Two refreshes at rest: pi* of pi* ..., which is the reference times exp(n r / beta)."""
    toy, beta = Toy(0), 2.0
    config = settings(
        steps=300,
        kl={"coefficient": beta},
        refresh_reference=150,
        policy_optimizer={"learning_rate": 0.05, "schedule": "constant", "beta2": 0.99},
    )
    run = training(toy, config, tmp_path)
    run.train(never)
    logits = run.players.policy.module.logits_XA.detach().double()
    twice, once = toy.optimum_S(beta / 2), toy.optimum_S(beta)
    assert kl(toy.logp_S(logits), twice) < 0.02 < kl(toy.logp_S(logits), once)


def test_samples_are_of_the_same_prompts_at_every_evaluation(tmp_path):
    import json

    job = ppo_job(tmp_path / "run", samples=3)
    done(job)
    lines = [json.loads(line) for line in (job.folder / "samples.jsonl").read_text().splitlines()]
    asked = {step: [line["prompt"] for line in lines if line["step"] == step] for step in (0, 3, 6)}
    assert len(lines) == 9
    assert asked[0] == asked[3] == asked[6]
    assert {"answer", "finished", "reward", "regex"} <= lines[0].keys()


def test_settings_that_contradict_each_other_or_would_do_nothing_are_refused():
    base = {"model": "m", "rewards": [{"rule": "exact"}], "prompts": [{"path": "p"}], "steps": 20}
    for wrong, says in (
        ({"kl_budget": 3.0}, "needs keep: best"),
        ({"kl_budget": 3.0, "keep": "best", "refresh_reference": 5}, "leave out one"),
        ({"refresh_reference": 5, "adapter": {"kind": "lora"}}, "leave out one"),
        ({"importance_cap": 0.5}, "importance_cap"),
        ({"ema": 1.0}, "ema"),
        ({"kl": {"coefficient": 0.0, "target": 1.0}}, "one of 0 stays 0"),
        ({"kl": {"horizon": 500}}, "set target, or leave horizon out"),
        ({"kl": {"loss_estimator": "k3"}}, "set loss above 0"),
        ({"kl": {"target": 1.0, "horizon": 25}}, r"kl.horizon 25 is so short .* batch 128 \(the default\) .* wanted more than 25"),
    ):
        with pytest.raises(ValueError, match=says):
            PPO.model_validate(base | wrong)


# --- importance weights ---


def test_importance_weights_are_capped_ratios_and_masked_slots_never_matter():
    trainer, sampler = torch.tensor([[-1.0, -2.0, float("nan")]]), torch.tensor([[-1.5, -1.0, 3.0]])
    found = importance_weights(trainer, sampler, torch.tensor([[True, True, False]]), 1.5)
    torch.testing.assert_close(found, torch.tensor([[1.5, float(np.exp(-1.0)), 0.0]]))


def test_ratios_have_both_ends_and_the_samplers_distance_is_in_every_line(tmp_path):
    job = ppo_job(tmp_path / "run", critic_warmup=0, importance_cap=2.0)
    done(job)
    lines = [line for line in metrics.read(job.folder / "metrics.jsonl") if "reward" in line]
    assert all(line["ratio_min"] <= 1.0 <= line["ratio_max"] for line in lines)
    assert all(abs(line["sampler_kl"]) < 1e-9 and line["importance_mean"] == pytest.approx(1.0, abs=1e-5) for line in lines)
    assert all(line["importance_capped"] == 0.0 and line["reward_clipped"] == 0.0 for line in lines)
