"""Every setting reaches the formula that it is for, and every number in the log is what its name says.

The formulas have tests of their own; here all settings are others than the defaults, so that one that is not passed on shows.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import DataError
from stages.core.answers import Scores
from stages.core.generation import Completion
from stages.core.logprobs import TokenLogprobs, batch_of
from stages.core.models import load_causal_lm, load_tokenizer
from stages.core.rewards import last_token_scores
from stages.ppo.algorithm import gae, kl_estimate, policy_loss
from stages.ppo.config import PPO
from stages.ppo.experience import collect
from stages.ppo.mix import Mix
from stages.ppo.rollout import Rollout, Rollouts
from stages.ppo.run import build_critic, build_mix
from stages.ppo.run import run as run_stage
from stages.ppo.update import Update
from stages.ppo.watch import FINAL_STEPS, Watch
from tests.stages.core.test_logprobs import model_of
from tests.stages.ppo.small import ppo_job, reward_model
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.test_algorithm import policy_loss_by_cases, value_loss_by_cases
from tests.stages.ppo.test_update import ALONE, ROWS, config_of, players_of, rollout_of
from tests.stages.ppo.toy import Toy
from tests.stages.tiny import CPU


def started(**changes):
    """An update whose policy and critic have moved away from those of the rollout, and its only part."""
    config = config_of(**changes)
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, ALONE)
    generator = torch.Generator().manual_seed(0)
    for tensor_BT, reach in ((experience.logp_BT, 0.7), (experience.values_BT, 0.3)):
        tensor_BT += reach * torch.randn(tensor_BT.shape, generator=generator) * experience.mask_BT
    update = Update(players, experience, config, ALONE)
    (part,) = update._parts(list(range(ROWS)))
    return players, experience, update, part


def test_discount_lambdas_and_whitening_are_those_of_the_settings():
    settings = {"gamma": 0.9, "lam": 0.7, "critic_lam": 0.3}
    config = config_of(**settings, whiten=False)
    found = collect(rollout_of(config), players_of(config), config, 0.1, ALONE)
    advantages, targets = (gae(found.rewards_BT, found.values_BT, found.mask_BT, gamma=0.9, lam=lam) for lam in (0.7, 0.3))
    assert torch.equal(found.advantages_BT, advantages)
    assert torch.equal(found.returns_BT, targets + found.values_BT)
    config = config_of(**settings)
    whitened = collect(rollout_of(config), players_of(config), config, 0.1, ALONE).advantages_BT[found.mask_BT]
    assert float(whitened.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(whitened.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_the_policys_clips_are_those_of_the_settings():
    players, _, update, part = started(clip=0.1, clip_high=0.5, dual_clip=1.5)
    loss, found = update._policy_loss(part)
    columns = (players.policy(part.batch)[0], part.old_logp_N, part.advantages_N)
    cases = zip(*(column.tolist() for column in columns), strict=True)
    expected = [policy_loss_by_cases(*case, 0.1, 0.5, 1.5) for case in cases]
    assert float(loss.detach()) == pytest.approx(float(np.dot(expected, part.weights_N)), abs=1e-5)
    assert 0 < int(found.clipped_N.sum()) < len(found.clipped_N)


def test_the_critics_clip_is_that_of_the_settings():
    players, _, update, part = started(value_clip=0.05)
    columns = (players.critic(part.batch), part.old_values_N, part.returns_N)
    cases = list(zip(*(column.tolist() for column in columns), strict=True))
    update._critic_step([part])
    expected = float(np.dot([value_loss_by_cases(*case, 0.05) for case in cases], part.weights_N))
    assert float(update.sums["value_loss"]) == pytest.approx(expected, abs=1e-5)
    assert expected > 1.001 * float(np.dot([value_loss_by_cases(*case, None) for case in cases], part.weights_N))


def test_a_loss_by_answers_gives_each_answer_the_same_weight():
    for aggregation in ("token", "sequence"):
        _, _, _, part = started(aggregation=aggregation)
        lengths = torch.bincount(part.batch.row_N)
        expected = lengths / lengths.sum() if aggregation == "token" else torch.full((ROWS,), 1 / ROWS)
        torch.testing.assert_close(torch.stack([piece.sum() for piece in part.weights_N.split(lengths.tolist())]), expected)


def test_how_far_an_update_has_moved_is_told_by_k3_of_the_rollouts_policy_against_this_one():
    old, new = torch.tensor([-1.0, -2.0, -0.3]), torch.tensor([-1.5, -1.0, -0.3])
    found = policy_loss(new, old, torch.ones(3), torch.ones(3), clip_low=0.2, clip_high=0.2).approximate_kl_N
    torch.testing.assert_close(found, (new - old).exp() - 1 - (new - old))
    torch.testing.assert_close(found, kl_estimate(old, new, "k3"))


def test_learning_rates_follow_their_schedules_and_a_minibatch_that_is_left_out_takes_its_place_in_both():
    config = config_of(policy_optimizer={"learning_rate": 0.05, "schedule": "linear", "warmup": 0.0, "final": 0.0}, epochs=2)
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, ALONE)
    Update(players, experience, config, ALONE).run(0, 0)
    planned = config.steps * config.epochs * config.minibatches
    assert players.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * (1 - 3 / planned))
    assert players.policy.learning_rate == pytest.approx(0.05 * (1 - 4 / planned))
    experience.advantages_BT[0] = torch.nan
    Update(players, experience, config, ALONE, trouble=lambda error, rows, minibatch: None).run(0, 1)
    assert players.policy.taken == players.critic.taken == 8


def test_every_pass_is_a_sign_of_life(monkeypatch):
    """One update of a large rollout may well take longer than `step_timeout`."""
    config, signs = config_of(epochs=2), []
    for module in ("update", "mix"):
        monkeypatch.setattr(f"stages.ppo.{module}.beat", lambda: signs.append(1))
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, ALONE, 4)
    signs.clear()
    mix = Mix([[1, 5, 9, 2]], 1, 1.0, players.policy.at(1.0), 0, ALONE, players.policy.backward)
    Update(players, experience, config, ALONE, micro_batch=4, mix=mix).run(0, 0)
    passes = 2 * ROWS // 4
    assert len(signs) == 2 * passes + 4, "policy and critic, and the text of four minibatches"


def test_every_rollout_and_every_pass_over_it_draws_anew():
    class Engine:
        def __init__(self):
            self.seeds = []

        def sync(self):
            pass

        def generate(self, prompts, *, seeds, **_):
            self.seeds += seeds
            return [Completion([1], True, [0.0]) for _ in prompts]

    words = SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids))
    rewards = SimpleNamespace(score=lambda answers: Scores(np.zeros(len(answers.texts)), {}))
    engine = Engine()
    rollouts = Rollouts(engine, rewards, words, frozenset({1}), config_of().sampling, 3, ALONE)
    questions = [SimpleNamespace(ids=[n], record=SimpleNamespace(messages=[], reference=None)) for n in range(5)]
    for step in range(3):
        rollouts.of_step(questions, ROWS, step)
    assert len(set(engine.seeds)) == 3 * ROWS
    config, seen = config_of(epochs=2), []
    update = Update(players_of(config), collect(rollout_of(config), players_of(config), config, 0.1, ALONE), config, ALONE)
    update.minibatches = lambda seed: seen.append(seed) or []
    for step in range(2):
        update.run(0, step)
    assert len(set(seen)) == 4


@pytest.mark.parametrize("normalise", [True, False])
def test_a_critic_begins_with_what_its_reward_is_worth_in_the_sum(tmp_path, normalise):
    rewards = [{"rule": "exact"}, {"model": "judge", "weight": 0.0}, {"model": "other", "weight": -2.0, "normalise": normalise}]
    job = ppo_job(tmp_path / "run", rewards=rewards)
    tokenizer = load_tokenizer(job.inputs["model"].path)
    judges = {n: reward_model(tokenizer, tmp_path / f"judge{n}", seed=n, mean=0.3, std=4.0) for n in (1, 2)}
    given = {f"rewards.{n}.model": job.inputs["model"].model_copy(update={"kind": "reward-model", "path": judges[n]}) for n in judges}
    job = job.model_copy(update={"inputs": job.inputs | given})
    policy = TokenLogprobs(load_causal_lm(job.inputs["model"].path, CPU))
    critic, told = build_critic(job, PPO.model_validate(job.config), CPU, tokenizer, policy)
    from stages.core.models import load_reward_model

    scores = last_token_scores(load_reward_model(judges[2], CPU), [[3, 4, 5], [3, 4, 5, 6]])
    expected = -2.0 * ((scores - 0.3) / 4.0 if normalise else scores)
    torch.testing.assert_close(critic(batch_of([[3, 4, 5]], [[6, 7]])).detach(), expected, atol=1e-5, rtol=1e-5)
    assert "begins as the reward model" in told
    named = job.model_copy(update={"inputs": job.inputs | {"critic": given["rewards.1.model"]}})
    critic, _ = build_critic(named, PPO.model_validate(job.config | {"critic": "judge"}), CPU, tokenizer, policy)
    scores = last_token_scores(load_reward_model(judges[1], CPU), [[3, 4, 5], [3, 4, 5, 6]])
    torch.testing.assert_close(critic(batch_of([[3, 4, 5]], [[6, 7]])).detach(), (scores - 0.3) / 4.0, atol=1e-5, rtol=1e-5)


def test_prompts_leave_room_for_an_answer_in_what_the_reward_model_can_read(tmp_path):
    job = ppo_job(tmp_path / "run", model_reward=True)
    config, settings = PPO.model_validate(job.config), job.inputs["rewards.0.model"].path / "config.json"
    assert config.room("prompts", {"model": 96, "rewards.0.model": 64, "critic": 32}) == 58
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_position_embeddings": 8}))
    with pytest.raises(DataError, match=r"no prompt fits into 2 tokens \(context 8 less sampling\.max_new_tokens 6\)"):
        run_stage(job, config, job.hardware)


def test_text_is_learned_at_temperature_one_with_its_coefficient(tmp_path):
    mix = {"data": [{"path": "text.jsonl"}], "coefficient": 3.0, "documents": 5}
    job = ppo_job(tmp_path / "run", mix=mix, sampling={"max_new_tokens": 6, "temperature": 0.5})
    (tmp_path / "text.jsonl").write_text('{"text": "the cat"}\n{"text": "the dog"}\n')
    job = job.model_copy(update={"files": job.files | {"mix.data.0": [tmp_path / "text.jsonl"]}})
    config = PPO.model_validate(job.config)
    players = players_of(config_of(sampling={"max_new_tokens": 6, "temperature": 0.5}))
    found = build_mix(job, config, load_tokenizer(job.inputs["model"].path), players.policy, ALONE)
    assert found is not None
    assert (found.coefficient, found.per_step, found.policy.temperature, len(found.documents)) == (3.0, 5, 1.0, 2)


def test_the_logs_numbers_are_what_their_names_say(tmp_path):
    config = config_of(missing_eos_penalty=0.5)
    completions = [Completion([20, 21, 22], True, [0.0] * 3), Completion([20], False, [0.0])]
    parts = {"judge": np.array([1.0, 4.0])}
    rollout = Rollout([0, 1], [[3, 4], [5]], completions, ["", ""], Scores(np.array([1.0, 4.0]), parts, np.array([False, True])))
    players = players_of(config)
    experience = collect(rollout, players, config, 0.1, ALONE)
    line = Watch(tmp_path, config, None, [], ALONE)._answers(rollout, experience)
    logits = [model_of()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in ([3, 4, 20, 21], [5])]
    entropies = -torch.cat([(logp.exp() * logp).sum(-1)[-count:] for logp, count in zip(logits, (3, 1), strict=True)])
    assert line["entropy"] == pytest.approx(float(entropies.detach().mean()), abs=1e-5)
    expected = {
        "reward": 2.25,
        "reward_std": 1.25,
        "reward_judge": 2.5,
        "reward_clipped": 0.5,
        "eos_rate": 0.5,
        "length": 2.0,
        "tokens": 4.0,
    }
    assert {name: line[name] for name in expected} == pytest.approx(expected)
    for name, values_B in (("kl", experience.k1_B), ("kl_k2", experience.k2_B), ("kl_k3", experience.k3_B)):
        assert line[name] == pytest.approx(float(values_B.mean()), abs=1e-6)


def test_a_number_that_the_last_rollout_lacks_or_that_is_not_finite_is_the_mean_of_those_that_are_there(tmp_path):
    watch = Watch(tmp_path, config_of(), None, [], ALONE)
    watch.lines = [
        {"step": 1, "reward": 1.0, "policy_loss": 3.0, "value_loss": None},
        {"step": 2, "reward": float("nan"), "value_loss": None},
    ]
    watch.evaluations = [{"step": 0, "held_out_reward": 5.0}]
    assert watch.final(2) == {"reward": 1.0, "policy_loss": 3.0, "held_out_reward": 5.0, "held_out_reward_before": 5.0}


def test_the_results_numbers_are_means_over_the_last_rollouts_and_the_evaluation_of_what_is_left(tmp_path):
    watch = Watch(tmp_path, config_of(), None, [], ALONE)
    watch.lines = [{"step": step, "reward": float(step), "seconds_update": 1.0} for step in range(1, 31)]
    watch.evaluations = [{"step": step, "held_out_reward": float(100 + step)} for step in (0, 10, 20, 30)]
    last = np.arange(31 - FINAL_STEPS, 31)
    assert watch.final(20) == {"reward": last.mean(), "held_out_reward": 120.0, "held_out_reward_before": 100.0}


def test_after_the_critics_warm_up_every_rollout_steers_the_coefficient_and_moves_the_average(tmp_path):
    kl = {"coefficient": 0.3, "target": 0.1, "horizon": 100}
    run = training(Toy(0), settings(steps=5, batch=16, critic_warmup=2, ema=0.5, kl=kl), tmp_path)
    steered, followed, adapt, follow = [], [], run.kl.adapt, run.keeping.follow
    run.kl.adapt = lambda mean_kl, answers: steered.append((mean_kl, answers)) or adapt(mean_kl, answers)
    run.keeping.follow = lambda policy: followed.append(policy.weights()["logits_XA"].clone()) or follow(policy)
    run.train(lambda: False)
    assert steered == [(line["kl"], 16) for line in run.watch.lines[2:]]
    assert len(followed) == 3
    torch.testing.assert_close(run.keeping.average["logits_XA"], 0.25 * followed[0] + 0.25 * followed[1] + 0.5 * followed[2])
