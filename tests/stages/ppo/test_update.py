"""An update does not depend on how it is cut or on who computes it, and moves only the player it is for."""

import socket
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from stages.adapters.switching import adapter_off
from stages.contract import StageError
from stages.core.answers import Scores
from stages.core.generation import Completion, Transformers
from stages.core.interrupt import Interrupted
from stages.core.logprobs import TokenLogprobs, TokenValues, batch_of
from stages.core.models import without_dropout
from stages.core.rewards import last_token_scores
from stages.core.seeds import seed_for
from stages.ppo.config import PPO
from stages.ppo.experience import collect
from stages.ppo.players import AdapterOff, Player, Players, critic_from_scores, frozen_copy
from stages.ppo.ranks import Ranks, join
from stages.ppo.rollout import Rollout, question_of
from stages.ppo.run import check_held_out
from stages.ppo.update import Update
from tests.stages.core.test_logprobs import END, model_of, prompts_of
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.toy import Toy

ROWS, LIMIT, ALONE = 16, 8, Ranks()


def config_of(**changes) -> PPO:
    base = {"batch": ROWS, "minibatches": 2, "critic_warmup": 0, "steps": 4, "value_clip": 0.2, "missing_eos_penalty": 1.0}
    return settings(**(base | {"sampling": {"max_new_tokens": LIMIT}} | changes))


def players_of(config: PPO, ranks: Ranks = ALONE, *, adapter: bool = False, checkpointing: bool = False, dropout: float = 0.0) -> Players:
    """Small players that learn by plain SGD, so that parameters show gradients."""
    model = model_of("lora" if adapter else "llama", dropout=dropout)
    policy = TokenLogprobs(without_dropout(model), config.sampling.temperature)
    reference = AdapterOff(policy) if adapter else frozen_copy(TokenLogprobs(model_of(seed=3)))
    backbone = without_dropout(model_of(seed=4)).get_decoder()
    critic = TokenValues(backbone, 32)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    for module, inner in ((policy, model), (critic, backbone)):
        module.train(checkpointing or dropout > 0)
        if checkpointing:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    updates = config.steps * config.epochs * config.minibatches
    made = Players(
        Player("policy", policy, config.policy_optimizer, updates, ranks),
        Player("critic", critic, config.critic_optimizer, updates, ranks),
        reference,
    )
    for player in (made.policy, made.critic):
        trained = [p for group in player.optimizer.param_groups for p in group["params"]]
        player.optimizer = torch.optim.SGD(trained, lr=0.05)
    return made


def rollout_of(config: PPO, ranks: Ranks = ALONE) -> Rollout:
    """Answers with one-token, ragged and cut ones among them, and scores that depend on the answer alone."""
    samples = list(range(ranks.rank, ROWS, ranks.size))
    prompts = prompts_of(ROWS)
    answers = Transformers(model_of()).generate(
        [prompts[i] for i in samples], seeds=samples, temperature=1.0, max_new_tokens=LIMIT, end_ids=set(range(1, 14))
    )
    score = np.array([float(sum(a.ids) % 7) / 3 - 1 for a in answers])
    return Rollout(samples, [prompts[i] for i in samples], answers, ["" for _ in answers], Scores(score, {}))


def one_update(config: PPO, ranks: Ranks = ALONE, micro_batch: int | None = None, step: int = 0, **options) -> tuple[Players, dict]:
    players = players_of(config, ranks, **options)
    experience = collect(rollout_of(config, ranks), players, config, 0.1, ranks, micro_batch)
    moved = Update(players, experience, config, ranks, micro_batch).run(0, step)
    return players, moved.means


def weights(player: Player) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in player.module.named_parameters() if parameter.requires_grad}


def assert_same(one: Players, other: Players, tolerance: float = 1e-6) -> None:
    for mine, theirs in ((one.policy, other.policy), (one.critic, other.critic)):
        for (name, a), b in zip(weights(mine).items(), weights(theirs).values(), strict=True):
            torch.testing.assert_close(a, b, atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_micro_batches_do_not_change_an_update(aggregation):
    config = config_of(aggregation=aggregation, entropy=0.01, kl={"coefficient": 0.1, "loss": 0.05})
    whole, means = one_update(config)
    for micro_batch in (8, 4, 2, 1):
        cut, cut_means = one_update(config, micro_batch=micro_batch)
        assert_same(whole, cut)
        assert cut_means == pytest.approx(means, abs=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_does_not_change_an_update(adapter):
    """With an adapter too: the reference, which switches it off, is asked before and never between forward and backward."""
    config = config_of()
    assert_same(one_update(config, adapter=adapter)[0], one_update(config, adapter=adapter, checkpointing=True)[0])


def test_a_step_in_the_critics_warm_up_leaves_the_policy_bit_equal():
    config = config_of(critic_warmup=2)
    untouched = players_of(config)
    moved, means = one_update(config, step=1)
    for name, parameter in weights(untouched.policy).items():
        assert torch.equal(parameter, weights(moved.policy)[name])
    assert any(not torch.equal(a, b) for a, b in zip(weights(untouched.critic).values(), weights(moved.critic).values(), strict=True))
    assert "policy_loss" not in means


def test_the_scale_of_the_values_changes_nothing_in_the_policys_step():
    """Each player has its own clip: a huge value gradient must not shrink the policy's step."""
    results = []
    for clip in (1.0, 1e-6):
        config = config_of(critic_optimizer={"learning_rate": 0.1, "clip": clip})
        results.append(weights(one_update(config)[0].policy))
    for name, parameter in results[0].items():
        assert torch.equal(parameter, results[1][name])


def test_dropout_in_the_models_config_is_off_so_the_first_ratio_is_one():
    config = config_of(minibatches=1)
    players = players_of(config, dropout=0.5)
    experience = collect(rollout_of(config), players, config, 0.1, Ranks())
    moved = Update(players, experience, config, Ranks()).run(0, 0)
    assert players.policy.module.training
    assert moved.first_ratio_error <= 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "lora"])
def test_every_kind_of_dropout_is_off_even_in_training_mode(kind):
    model = model_of(kind)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.base_model.add_module("more", torch.nn.Dropout(0.5))
    ids = torch.tensor([[3, 4, 5]])
    without_dropout(model).train()
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert model.base_model.more.p == 0.0


def test_stop_kl_ends_the_update_and_the_schedule_goes_on():
    config = config_of(epochs=3, minibatches=4, stop_kl=1e-7)
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, Ranks())
    moved = Update(players, experience, config, Ranks()).run(0, 0)
    assert moved.stopped
    assert players.policy.taken == players.critic.taken == 12
    assert all(p.grad is None for p in players.policy.module.parameters())
    free = Update(players_of(config), experience, config_of(epochs=3, minibatches=4), Ranks()).run(0, 0)
    assert not free.stopped


def test_the_minibatch_that_stops_the_policy_learns_no_text_and_does_not_count_in_its_mean():
    config = config_of(epochs=3, minibatches=4, stop_kl=1e-7)
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, ALONE)
    mix = SimpleNamespace(backward=lambda taken, micro_batch: torch.tensor(2.0))
    moved = Update(players, experience, config, ALONE, mix=mix).run(0, 0)
    assert moved.stopped
    assert moved.means["mix_loss"] == 2.0


@pytest.mark.parametrize("spoilt", ["advantages_BT", "returns_BT"])
def test_a_minibatch_that_is_left_out_does_not_count_in_the_means(spoilt):
    config = config_of()
    players = players_of(config)
    experience = collect(rollout_of(config), players, config, 0.1, ALONE)
    update = Update(players, experience, config, ALONE, trouble=lambda error, rows, minibatch: None)
    row = update.minibatches(seed_for(0, "minibatches", 0, 0))[1][0]
    getattr(experience, spoilt)[row] = torch.nan
    means = update.run(0, 0).means
    assert {"policy_loss", "value_loss", "approximate_kl", "clip_fraction"} <= means.keys()
    assert all(np.isfinite(value) for value in means.values())


class Heard(Ranks):
    """One of two processes; the other one has gone far in everything, and what is summed with it is noted by its size."""

    sizes: ClassVar[list[int]] = []

    def sum(self, sums):
        self.sizes.append(sums.numel())
        return sums + 1.0


def test_a_process_without_a_row_sums_as_many_numbers_as_the_others():
    """The policy stops after a minibatch of which one process has a row and the other has none."""
    config = config_of(minibatches=8, stop_kl=1e-7)
    experience = collect(rollout_of(config), players_of(config), config, 0.1, ALONE)
    first = Update(players_of(config), experience, config, ALONE).minibatches(seed_for(0, "minibatches", 0, 0))[0]
    sizes = []
    for here in (first, [row for row in range(ROWS) if row not in first]):
        Heard.sizes.clear()
        ranks = Heard()
        update = Update(players_of(config), experience, config, ranks)
        every = update.minibatches
        update.minibatches = lambda seed, every=every, here=here: [[row for row in rows if row in here] for rows in every(seed)]
        assert update.run(0, 0).stopped
        sizes.append([*Heard.sizes])
    assert sizes[0] == sizes[1]


def test_more_processes_than_held_out_prompts_are_refused_with_the_numbers():
    check_held_out(2, Ranks(0, 2))
    with pytest.raises(
        StageError, match="held-out prompts: found 1, wanted at least one for each of the 2 processes: take 1, raise held_out"
    ):
        check_held_out(1, Ranks(0, 2))


def test_every_answer_is_in_one_minibatch_of_each_epoch():
    config = config_of(minibatches=4)
    experience = collect(rollout_of(config), players_of(config), config, 0.1, Ranks())
    update = Update(players_of(config), experience, config, Ranks())
    first, second = update.minibatches(1), update.minibatches(2)
    assert sorted(i for rows in first for i in rows) == list(range(ROWS))
    assert [len(rows) for rows in first] == [4] * 4
    assert first != second


def test_metrics_see_no_padding():
    """A longer answer in the batch adds pad columns to all others; their own numbers stay."""
    config = config_of()
    players, rollout = players_of(config), rollout_of(config)
    short = [i for i, completion in enumerate(rollout.completions) if len(completion.ids) <= 3]
    part = Rollout(
        short,
        *([column[i] for i in short] for column in (rollout.prompt_ids, rollout.completions, rollout.texts)),
        Scores(rollout.scores.total[short], {}),
    )  # type: ignore[arg-type]
    whole, alone = (collect(each, players, config, 0.1, Ranks()) for each in (rollout, part))
    torch.testing.assert_close(whole.k1_B[short], alone.k1_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.k3_B[short], alone.k3_B, atol=1e-5, rtol=0)
    assert (whole.entropy_BT[~whole.mask_BT] == 0).all()


def test_an_unfinished_answer_pays_even_if_its_prompt_holds_an_end_token():
    config = config_of(missing_eos_penalty=2.5)
    completions = [Completion([20, 21], False, [0.0, 0.0]), Completion([20, END], True, [0.0, 0.0])]
    rollout = Rollout([0, 1], [[3, END, 4], [3, END, 4]], completions, ["", ""], Scores(np.zeros(2), {}))
    assert collect(rollout, players_of(config), config, 0.0, Ranks()).score_B.tolist() == [-2.5, 0.0]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_policys_loss_is_the_surrogate_plus_kl_less_entropy(estimator):
    config = config_of(entropy=0.3, kl={"coefficient": 0.1, "loss": 0.5, "loss_estimator": estimator})
    players = players_of(config)
    update = Update(players, collect(rollout_of(config), players, config, 0.1, ALONE), config, ALONE)
    (part,) = update._parts(list(range(ROWS)))
    loss, found = update._policy_loss(part)
    logp_N, entropy_N = players.policy(part.batch, with_entropy=True)
    difference_N = logp_N - part.reference_N
    kl_N = difference_N**2 / 2 if estimator == "k2" else (-difference_N).exp() - 1 + difference_N
    expected = found.loss + (0.5 * kl_N * part.weights_N).sum() - (0.3 * entropy_N * part.weights_N).sum()
    torch.testing.assert_close(loss, expected)


def test_an_answer_near_the_limit_pays_for_it():
    config = config_of(missing_eos_penalty=0.0, overlong=4)
    completions = [Completion([20] * length, True, [0.0] * length) for length in (1, 4, 6, LIMIT)]
    rollout = Rollout(list(range(4)), [[3]] * 4, completions, [""] * 4, Scores(np.zeros(4), {}))
    assert collect(rollout, players_of(config), config, 0.0, Ranks()).score_B.tolist() == [0.0, 0.0, -0.5, -1.0]


def test_a_critic_begins_with_the_standardised_scores_of_its_reward_model():
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    config = model_of().config
    config.num_labels = 1
    classifier = LlamaForSequenceClassification(config).eval()
    torch.nn.init.normal_(classifier.score.weight)
    critic = critic_from_scores(classifier, classifier.model, mean=0.3, std=2.0, dtype=torch.float32)
    values = critic(batch_of([[3, 4, 5]], [[6, 7]])).detach()
    scores = last_token_scores(classifier, [[3, 4, 5], [3, 4, 5, 6]])
    torch.testing.assert_close(values, (scores - 0.3) / 2.0, atol=1e-5, rtol=0)


def test_a_policy_can_be_asked_at_another_temperature_than_its_own():
    config = config_of(sampling={"max_new_tokens": LIMIT, "temperature": 0.7})
    policy, batch = players_of(config).policy, batch_of([[3, 4]], [[5, 6, 7]])
    torch.testing.assert_close(policy.at(1.0)(batch)[0], TokenLogprobs(model_of(), 1.0)(batch)[0])
    assert float((policy.at(1.0)(batch)[0] - policy(batch)[0]).detach().abs().max()) > 1e-3


def test_switching_an_adapter_off_restores_every_flag_and_its_reference_is_the_bare_model():
    model = model_of("lora")
    flags = [bool(i % 3) for i, _ in enumerate(model.parameters())]
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    with adapter_off(model), torch.no_grad():
        off = model(input_ids=torch.tensor([[3, 4, 5]])).logits
    assert [p.requires_grad for p in model.parameters()] == flags
    bare = model_of()
    with torch.no_grad():
        assert torch.equal(off, bare(input_ids=torch.tensor([[3, 4, 5]])).logits)


def test_prompts_come_in_whole_permutations_that_differ():
    order = [question_of(5, 7, position) for position in range(21)]
    epochs = [order[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_gradient_that_is_not_finite_stops_the_stage():
    players = players_of(config_of())
    next(players.policy.module.parameters()).grad = torch.full_like(next(players.policy.module.parameters()), float("nan"))
    with pytest.raises(StageError, match="policy's gradient is not finite"):
        players.policy.step()


def _rank_update(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    players, means = one_update(config_of(), join())
    torch.save((weights(players.policy), weights(players.critic), means), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_make_the_update_of_one(tmp_path):
    """Whitening, loss counts and gradients are global; both processes end with the same parameters."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank_update, (port, str(tmp_path)), nprocs=2)
    players, means = one_update(config_of())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for alone, mine, theirs in zip((weights(players.policy), weights(players.critic)), first, second, strict=False):
        for name, parameter in alone.items():
            assert torch.equal(mine[name], theirs[name])
            torch.testing.assert_close(mine[name], parameter, atol=1e-6, rtol=0)
    assert first[2] == pytest.approx(means, abs=1e-4)


def test_a_signal_that_reaches_another_process_first_stops_this_one_at_the_same_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "any", lambda ranks, flag: True)
    with pytest.raises(Interrupted, match="stopped after rollout 1 of 5"):
        training(Toy(0), settings(steps=5, batch=8), tmp_path).train(lambda: False)
    assert (tmp_path / "checkpoints/step-000001/COMPLETE").exists()
