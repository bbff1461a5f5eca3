"""The PPO stage: load the players, let them play, save the policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data import chat
from data.errors import DataError
from data.formats import Prompt, Text
from data.records import read_records, split
from stages.adapters.judge import judge_on
from stages.adapters.prompts import has_prompt
from stages.adapters.start import Start, begin
from stages.contract import Hardware, Job, Result, StageError
from stages.core.arguments import check_shared
from stages.core.artifacts import save_artifact
from stages.core.checkpoints import Ground, Saver
from stages.core.divergence import Trouble
from stages.core.generation import Engine, Transformers
from stages.core.interrupt import interruptible
from stages.core.logprobs import TokenLogprobs, TokenValues, check_head
from stages.core.models import (
    check_fit,
    choose_precision,
    context_of,
    load_causal_lm,
    load_reward_model,
    load_start,
    load_tokenizer,
    without_dropout,
)
from stages.core.reading import files_of
from stages.core.rewards import backbone_of, build_rewards, reward_statistics
from stages.core.text import text_documents
from stages.core.trackers import Trackers
from stages.core.vllm import VLLM, check_vllm, plain_weights
from stages.core.watchdog import watching
from stages.core.zero import make_whole, record, zero_stage
from stages.ppo.algorithm import KLController, RunningMoments
from stages.ppo.config import PPO
from stages.ppo.keeping import Keeping
from stages.ppo.loop import Training
from stages.ppo.mix import Mix
from stages.ppo.players import AdapterOff, Player, Players, critic_from_scores, frozen_copy
from stages.ppo.ranks import Ranks, join
from stages.ppo.rollout import Question, Rollouts
from stages.ppo.sharded import ShardedPlayer, judging, judging_rewards, probe_of
from stages.ppo.sharing import AdapterLogprobs, AdapterValues, HeadOnTrunk, add_critic, without_critic
from stages.ppo.watch import Watch


def run(job: Job, config: PPO, hardware: Hardware) -> Result:
    """Improve the policy; leave it as a causal model, or its adapter, and say what became of reward and KL."""
    zero = zero_stage(hardware)
    ranks = join(zero)
    check_shared(config.workload(), ranks.size)
    if config.engine == "vllm":
        check_vllm()
    precision = choose_precision(hardware)
    path = job.inputs["model"].path
    tokenizer = load_tokenizer(path)
    chat.check_template(tokenizer)
    prompts = read_prompts(job, config)
    check_held_out(len(prompts.held_out), ranks)
    model = load_start(path, hardware, config.adapter, "CAUSAL_LM")
    check_fit(model, tokenizer, path)
    start = begin(model, config.adapter, "CAUSAL_LM", job=job, tokenizer=tokenizer)
    model = start.model
    on_base = config.players == "shared-base"
    rewards = build_rewards(config.rewards, job, tokenizer, hardware, on_base=lambda path: judge_on(start, path) if on_base else None)
    # Beyond its context a reward model gives numbers, and they mean nothing.
    questions, held_out, notes = fitted(prompts, config, tokenizer, min(context_of(model), rewards.context or context_of(model)))
    check_held_out(len(held_out), ranks)
    rewards = judging_rewards(rewards, hardware, ranks)
    check_head(model)
    players, how = build_players(job, config, hardware, start, tokenizer, ranks)
    micro_batch = hardware.micro_batch if isinstance(hardware.micro_batch, int) else None
    rollouts = Rollouts(
        # Of adapters that lie apart from their base another engine reads the base; they come with the first weights that are handed over.
        engine=build_engine(start.base.path if start.base else path, config, players.policy.module, ranks, micro_batch),
        rewards=rewards,
        tokenizer=tokenizer,
        end_ids=frozenset(chat.end_ids(tokenizer)),
        sampling=config.sampling,
        seed=job.seed,
        ranks=ranks,
        whole=players.policy.whole,
    )
    watch = Watch(job.folder, config, rollouts, held_out, ranks, micro_batch, Trackers(job, writes=ranks.first))
    training = Training(
        config=config,
        seed=job.seed,
        players=players,
        rollouts=rollouts,
        questions=questions,
        kl=KLController(config.kl.coefficient, config.kl.target, config.kl.horizon),
        keeping=Keeping(config.ema, config.keep == "best", config.kl_budget),
        watch=watch,
        saver=saver_of(job, config, players, ranks),
        ranks=ranks,
        micro_batch=micro_batch,
        mix=build_mix(job, config, tokenizer, players.policy, ranks),
        running=RunningMoments() if config.running_normalisation else None,
    )
    training.trouble = trouble = Trouble(job, first=ranks.first)
    if ranks.first:
        print("\n".join([f"precision {precision}", *notes, *how]), flush=True)
    with interruptible() as stop, watching(job, ranks.rank):
        training.train(stop)
    kept, left = training.keeping.settle(players.policy, config.steps)
    policy: Any = players.policy.module
    make_whole(policy, lambda: probe_of(policy), keep=ranks.first)
    if ranks.first:
        save_artifact(without_critic(policy.model), tokenizer, job.artifact, kind="causal-lm", kept=start.kept)
    ranks.wait()
    return Result(
        steps=config.steps,
        metrics=watch.final(kept) | start.metrics | trouble.metrics(),
        tables=[watch.table()],
        notes=[*notes, *how, *left, *watch.told.values(), *trouble.notes()],
    )


def check_held_out(count: int, ranks: Ranks) -> None:
    """Raises StageError where a process would have none of the held-out prompts; what settings alone tell, `check_shared` has looked at."""
    if count < ranks.size:
        raise StageError(
            f"held-out prompts: found {count}, wanted at least one for each of the {ranks.size} processes: "
            f"take {max(1, count)}, raise held_out, or name `validation` prompts"
        )


def saver_of(job: Job, config: PPO, players: Players, ranks: Ranks) -> Saver:
    """What writes the stage's checkpoints: both players, and the copies of the policy that the settings ask for."""
    copies = (config.ema is not None) + (config.keep == "best")
    moved = players.policy.size if config.refresh_reference else 0
    return Saver(
        job.folder / "checkpoints",
        job.checkpoints,
        ground=Ground(ranks.size, zero_stage(job.hardware)),
        first=ranks.first,
        wait=ranks.wait,
        total=lambda number: int(ranks.sum(torch.tensor(number))),
        expected=players.policy.size_of_state + players.critic.size_of_state + copies * players.policy.size_of_trained + moved,
    )


def build_players(job: Job, config: PPO, hardware: Hardware, start: Start, tokenizer: Any, ranks: Ranks) -> tuple[Players, list[str]]:
    """The policy, its reference, and a critic; and how they were made, a sentence each."""
    model = start.model
    dtype = choose_precision(hardware).dtype
    device = next(model.parameters()).device
    on_base = config.players == "shared-base"
    reference: AdapterOff | TokenLogprobs
    if config.adapter is None:
        policy_module = TokenLogprobs(without_dropout(model.requires_grad_(True)), config.sampling.temperature, dtype)
        reference = frozen_copy(policy_module, on_its_weights=zero_stage(hardware) == 3)
        notes = ["the reference is a frozen copy of the policy"]
    else:
        twin = start.twin()
        if on_base:
            add_critic(model, config.adapter, job.seed)
        policy_module = (AdapterLogprobs if on_base else TokenLogprobs)(without_dropout(model), config.sampling.temperature, dtype)
        reference = AdapterOff(policy_module, twin)
        how_off = "its adapter as it was before" if twin else "its adapter switched off"
        notes = [*start.notes, f"the reference is the policy with {how_off}"]
    critic_module, how = build_critic(job, config, hardware, tokenizer, policy_module)
    for module in (policy_module, critic_module):
        _prepare(module, hardware)
    updates = config.epochs * config.minibatches
    zero = zero_stage(hardware)
    player: Callable[..., Player] = partial(Player, dtype=dtype)
    if zero:
        width = policy_module.model.config.get_text_config().hidden_size
        policy_module.rounds = ranks.most
        if isinstance(reference, TokenLogprobs):
            reference.rounds = ranks.most
        player = partial(ShardedPlayer, hardware=hardware, width=width)
        reference = judging(reference, hardware, width) if isinstance(reference, TokenLogprobs) else reference
        notes.append(f"policy and critic have a DeepSpeed engine each, ZeRO-{zero}")
    policy = player("policy", policy_module, config.policy_optimizer, (config.steps - config.critic_warmup) * updates, ranks)
    critic = player("critic", critic_module.to(device), config.critic_optimizer, config.steps * updates, ranks)
    for one in (policy, critic) if ranks.first else ():
        if isinstance(one, ShardedPlayer):
            record(job.folder, one.config, one.name)
    return Players(policy, critic, reference, in_shards=zero == 3), [*notes, how]


def _prepare(module: Any, hardware: Hardware) -> None:
    """Eval mode, where nothing is drawn; or training mode without dropout, which gradient checkpointing needs."""
    if not hardware.gradient_checkpointing:
        module.eval()
        return
    if isinstance(module, HeadOnTrunk):
        return
    inner = module.model if isinstance(module, TokenLogprobs) else module.backbone
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(inner, "enable_input_require_grads"):
        inner.enable_input_require_grads()
    module.train()


def build_critic(job: Job, config: PPO, hardware: Hardware, tokenizer: Any, policy: TokenLogprobs) -> tuple[TokenValues | HeadOnTrunk, str]:
    """A critic on the policy's weights where players share them; else one of its own: from the model that the recipe names, the first reward
    model that shares the tokenizer, or the policy."""
    dtype, width = policy.dtype, policy.model.config.get_text_config().hidden_size
    if config.players == "shared-trunk":
        return HeadOnTrunk(policy, width, job.seed), "the critic is a head on the policy's trunk"
    if config.players == "shared-base":
        return AdapterValues(policy.model, width, dtype), "the critic is an adapter, with a value head of zeros, on the policy's base"
    models = [(job.inputs[f"rewards.{i}.{part.takes[0][0]}"], part) for i, part in enumerate(config.rewards) if part.takes and part.weight]
    if config.critic is not None:
        chosen, part = job.inputs["critic"], None
    elif models and load_tokenizer(models[0][0].path).get_vocab() == tokenizer.get_vocab():
        chosen, part = models[0]
    else:
        chosen, part = job.inputs["model"], None
    if chosen.kind != "reward-model":
        model = load_causal_lm(chosen.path, hardware, trainable=True).requires_grad_(True)
        critic = TokenValues(without_dropout(model.get_decoder()), model.config.get_text_config().hidden_size, dtype)
        without = ", without its virtual tokens," if has_prompt(model) else ""
        return critic.to(model.device), f"the critic begins as '{chosen.reference}'{without} with a value head of zeros"
    classifier = load_reward_model(chosen.path, hardware, trainable=True).requires_grad_(True)
    mean, std = reward_statistics(chosen.path) if part is None or part.normalise else (0.0, 1.0)
    critic = critic_from_scores(classifier, without_dropout(backbone_of(classifier)), mean, std / (part.weight if part else 1.0), dtype)
    return critic, f"the critic begins as the reward model '{chosen.reference}', its score head as value head"


def build_engine(folder: Path, config: PPO, policy: Any, ranks: Ranks, micro_batch: int | None) -> Engine:
    """What draws answers."""
    if config.engine == "transformers":
        return Transformers(policy.model, micro_batch, policy.dtype)
    weights = partial(plain_weights, policy.model)
    return VLLM(folder, weights, context=context_of(policy.model), memory=config.engine_memory, dtype=policy.dtype, processes=ranks.size)


def build_mix(job: Job, config: PPO, tokenizer: Any, policy: Player, ranks: Ranks) -> Mix | None:
    """The text that the policy goes on learning, if any."""
    if config.mix is None:
        return None
    found = read_records(config.mix.data, files_of(job, "mix.data", config.mix.data), Text)
    documents = text_documents(tokenizer, [record.text for record in found.records], context_of(policy.module.model))
    ids = [document.ids.tolist() for document in documents if len(document.ids) > 1]
    if not ids:
        raise DataError("mix.data holds no text")
    return Mix(ids, config.mix.documents, config.mix.coefficient, policy.at(1.0), job.seed, ranks, policy.backward)


@dataclass(frozen=True)
class Prompts:
    """Prompts as they were read: those to train on, and held-out ones."""

    training: list[Prompt]
    held_out: list[Prompt]
    notes: list[str]


def read_prompts(job: Job, config: PPO) -> Prompts:
    """Prompts to train on and held-out ones, and what was noticed."""
    found = read_records(config.prompts, files_of(job, "prompts", config.prompts), Prompt)
    if config.validation:
        validation = read_records(config.validation, files_of(job, "validation", config.validation), Prompt)
        return Prompts(found.records, validation.records, [*found.notes, *validation.notes])
    return Prompts(*split(found.records, config.held_out), list(found.notes))


def fitted(prompts: Prompts, config: PPO, tokenizer: Any, context: int) -> tuple[list[Question], list[Question], list[str]]:
    """The same as ids, and what was noticed. Raises DataError if none fits the context beside an answer."""
    room = context - config.sampling.max_new_tokens
    if room < 1:
        raise DataError(
            f"sampling.max_new_tokens {config.sampling.max_new_tokens} leaves no room for a prompt in the context of {context} tokens"
        )
    notes = list(prompts.notes)
    training, left = questions_of(prompts.training, tokenizer, room)
    asked, also_left = questions_of(prompts.held_out, tokenizer, room)
    if left + also_left:
        notes.append(f"{left + also_left} prompts do not fit into {room} tokens even without their oldest turns, and are left out")
    for what, questions in (("prompt", training), ("held-out prompt", asked)):
        if not questions:
            raise DataError(
                f"no {what} fits into {room} tokens (context {context} less sampling.max_new_tokens {config.sampling.max_new_tokens})"
            )
    return training, asked, notes


def questions_of(records: Sequence[Prompt], tokenizer: Any, room: int) -> tuple[list[Question], int]:
    """Prompts with their ids, their oldest exchanges dropped where they are too long; and how many do not fit at all."""
    fitted = chat.fit_prompts(tokenizer, [record.messages for record in records], room)
    questions = [
        Question(found[1], Prompt(found[0], record.reference, record.extra))
        for record, found in zip(records, fitted, strict=True)
        if found is not None
    ]
    return questions, len(records) - len(questions)
