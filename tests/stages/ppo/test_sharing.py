"""Players on shared weights: nobody moves another's, the reference stays the base, and one pass gives what two would."""

import pytest
import torch
from safetensors.torch import load_file

from stages.adapters.config import Lora
from stages.core.interrupt import Interrupted
from stages.core.logprobs import TokenLogprobs, TokenValues, batch_of
from stages.ppo.config import PPO
from stages.ppo.experience import collect
from stages.ppo.players import AdapterOff, Player, Players, frozen_copy
from stages.ppo.ranks import Ranks
from stages.ppo.sharing import CRITIC, AdapterLogprobs, AdapterValues, HeadOnTrunk, add_critic
from stages.ppo.update import Update
from tests.stages.core.test_logprobs import model_of, prompts_of
from tests.stages.ppo.small import ppo_job
from tests.stages.ppo.test_stage import ADAPTER, StopAfter, done, numbers, same, weights
from tests.stages.ppo.test_update import config_of, rollout_of


def shared(kind: str, config: PPO, *, checkpointing: bool = False) -> Players:
    """Small players that learn by SGD. On a base, adapters and head are not at their neutral start, so that a switch shows."""
    model = model_of("lora" if kind == "shared-base" else "llama")
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if kind == "shared-base":
        add_critic(model, Lora(rank=4), 0)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if f".{CRITIC}." in name:
                parameter.data.normal_(std=0.1, generator=generator)
        policy, critic = AdapterLogprobs(model), AdapterValues(model, 32, torch.float32)
        reference = AdapterOff(policy)
        heads = [critic.head]
    else:
        policy = TokenLogprobs(model)
        critic = HeadOnTrunk(policy, 32, 0)
        reference = frozen_copy(TokenLogprobs(model_of(seed=3)))
        heads = [critic.head[-1]]
    for head in heads:
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    model.train(checkpointing)
    made = Players(
        Player("policy", policy, config.policy_optimizer, 8, Ranks()),
        Player("critic", critic, config.critic_optimizer, 8, Ranks()),
        reference,
    )
    for player in (made.policy, made.critic):
        player.optimizer = torch.optim.SGD([p for group in player.optimizer.param_groups for p in group["params"]], lr=0.05)
    return made


def copied(player: Player) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in player.weights().items()}


def moved(before: dict[str, torch.Tensor], player: Player) -> bool:
    return any(not torch.equal(tensor, player.weights()[name]) for name, tensor in before.items())


def update(kind: str, step: int = 0, micro_batch: int | None = None, checkpointing: bool = False, **changes):
    config = config_of(**changes)
    players = shared(kind, config, checkpointing=checkpointing)
    before = copied(players.policy), copied(players.critic)
    experience = collect(rollout_of(config), players, config, 0.1, Ranks(), micro_batch)
    Update(players, experience, config, Ranks(), micro_batch).run(0, step)
    return players, before, experience


KINDS = ("shared-trunk", "shared-base")


def test_each_player_has_its_own_parameters_and_no_other():
    for kind in KINDS:
        players = shared(kind, config_of())
        policy, critic = ({id(p) for p in player.module.parameters() if p.requires_grad} for player in (players.policy, players.critic))
        assert policy
        assert critic
        assert not policy & critic
        owned = {id(p) for player in (players.policy, players.critic) for group in player.optimizer.param_groups for p in group["params"]}
        assert owned == policy | critic
    base = shared("shared-base", config_of())
    assert all("lora" in name for name in base.policy.weights())
    assert {name.split(".")[0] for name in base.critic.weights()} == {"backbone", "head"}
    assert not {id(t) for t in base.policy.module.parameters()} & {id(p) for n, p in base.critic.module.named_parameters() if CRITIC in n}


@pytest.mark.parametrize("kind", KINDS)
def test_the_critics_warm_up_leaves_the_policy_bit_equal_and_the_base_is_never_moved(kind):
    players, (policy, critic), _ = update(kind, step=1, critic_warmup=2)
    assert not moved(policy, players.policy)
    assert moved(critic, players.critic)
    players, (policy, critic), _ = update(kind)
    assert moved(policy, players.policy)
    assert moved(critic, players.critic)
    if kind == "shared-base":
        before, now = (
            dict(model.named_parameters()) for model in (shared(kind, config_of()).policy.module.model, players.policy.module.model)
        )
        assert all(torch.equal(parameter, now[name]) for name, parameter in before.items() if "lora" not in name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_loss_gives_the_policy_no_gradient(kind):
    """Whatever the critic learns, the policy's step is the same."""
    results = [update(kind, critic_optimizer={"learning_rate": 0.1, "clip": clip})[0].policy.weights() for clip in (1.0, 1e-6)]
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name])


@pytest.mark.parametrize("left", [True, False], ids=["what the policy's pass has left", "a pass of its own"])
def test_the_critics_backward_pass_ends_before_the_trunk(left):
    players = shared("shared-trunk", config_of())
    policy, critic = players.policy.module, players.critic.module
    batch = batch_of(prompts_of(4), prompts_of(4, longest=3))
    if left:
        policy(batch)
    critic(batch).sum().backward()
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert all(parameter.grad is not None for parameter in critic.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [8, 1])
def test_cutting_and_checkpointing_do_not_change_an_update(kind, micro_batch):
    whole, _, _ = update(kind)
    for checkpointing in (False, True):
        cut, _, _ = update(kind, micro_batch=micro_batch, checkpointing=checkpointing)
        for mine, theirs in ((whole.policy, cut.policy), (whole.critic, cut.critic)):
            for name, tensor in mine.weights().items():
                torch.testing.assert_close(tensor, theirs.weights()[name], atol=1e-6, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_one_pass_gives_log_probabilities_and_values_of_two():
    players = shared("shared-trunk", config_of())
    batch = batch_of(prompts_of(6), prompts_of(6, longest=5))
    with torch.no_grad():
        logp, entropy, _, values = players.look(batch)
        alone, its_entropy = players.policy.module(batch, with_entropy=True)
        own = players.critic.module(batch)
    torch.testing.assert_close(logp, alone)
    torch.testing.assert_close(entropy, its_entropy)
    torch.testing.assert_close(values, own)


def test_what_a_pass_has_left_is_used_once_and_only_for_its_own_batch():
    players = shared("shared-trunk", config_of())
    policy, critic = players.policy.module, players.critic.module
    first, second = (batch_of(prompts_of(4), prompts_of(4, longest=n)) for n in (3, 5))
    calls = []
    hidden = policy.hidden
    policy.hidden = lambda batch: calls.append(batch) or hidden(batch)
    policy(first)
    critic(second)
    critic(first)
    assert [batch is first for batch in calls] == [True, False]
    critic(first)
    assert len(calls) == 3
    assert policy.kept == {}


def test_on_a_shared_base_each_player_is_what_it_would_be_alone():
    """The policy with its adapter only, the critic with its own only, the reference with neither."""
    players = shared("shared-base", config_of())
    batch = batch_of(prompts_of(5), prompts_of(5, longest=4))
    with torch.no_grad():
        logp, _, reference, values = players.look(batch)
        torch.testing.assert_close(logp, TokenLogprobs(model_of("lora"))(batch)[0])
        torch.testing.assert_close(reference, TokenLogprobs(model_of())(batch)[0])
        alone = model_of("lora")  # the critic's adapter, put in the place of the only one
        own = dict(players.policy.module.model.named_parameters())
        for name, parameter in alone.named_parameters():
            if "lora" in name:
                parameter.copy_(own[name.replace(".default.", f".{CRITIC}.")])
        critic = TokenValues(alone.get_decoder(), 32)
        critic.head.load_state_dict(players.critic.module.head.state_dict())
        torch.testing.assert_close(values, critic(batch))


@pytest.mark.parametrize("changes", [{"players": "shared-trunk"}, {"players": "shared-base", "adapter": ADAPTER}], ids=KINDS)
def test_a_job_with_shared_players_goes_on_bit_for_bit_and_leaves_a_plain_model(tmp_path, changes, monkeypatch):
    from transformers import AutoModelForCausalLM

    whole, cut = (ppo_job(tmp_path / name / "run", model_reward=True, **changes) for name in ("whole", "cut"))
    done(whole)
    monkeypatch.setattr("stages.ppo.run.interruptible", lambda: StopAfter(3))
    with pytest.raises(Interrupted):
        done(cut)
    monkeypatch.undo()
    done(cut)
    same(whole, cut)
    lines = [line for line in numbers(whole) if "reward" in line]
    assert lines[0]["kl"] == 0.0
    assert max(line["first_ratio_error"] for line in lines) <= 1e-5
    assert lines[0]["value_loss"] > 0
    start = load_file(whole.inputs["model"].path / "model.safetensors")
    assert weights(whole).keys() == start.keys()
    assert not (whole.artifact / "adapter_config.json").exists()
    AutoModelForCausalLM.from_pretrained(whole.artifact)


def test_settings_that_share_what_cannot_be_shared_are_refused():
    base = {"model": "m", "rewards": [{"rule": "exact"}], "prompts": [{"path": "p"}], "steps": 20}
    for wrong, says in (
        ({"players": "shared-base"}, "needs an `adapter`"),
        ({"players": "shared-base", "adapter": {"kind": "prefix", "hand_over": "continue"}}, "needs an `adapter` of a LoRA kind"),
        ({"players": "shared-base", "adapter": {"kind": "lora", "init": "pissa"}}, "leaves the base as it is"),
        ({"players": "shared-trunk", "critic": "c"}, "no weights to start from"),
    ):
        with pytest.raises(ValueError, match=says):
            PPO.model_validate(base | wrong)
