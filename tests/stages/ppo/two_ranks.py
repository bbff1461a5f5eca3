"""What two processes under each ZeRO stage do with a policy and a critic; started once, by torchrun, for all checks of `test_sharded.py`.

Each check gives something that JSON can hold, by rank; the tests say what it must be.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from stages.contract import Hardware
from stages.core import logprobs
from stages.core.config import Optimizer
from stages.core.generation import Transformers
from stages.core.logprobs import TokenLogprobs, TokenValues, batch_of
from stages.core.zero import make_whole, shards
from stages.ppo.players import NotFiniteError, Player
from stages.ppo.ranks import Ranks, join
from stages.ppo.sharded import ShardedPlayer, probe_of

SETTINGS = Optimizer(learning_rate=1e-2, clip=0.05, schedule="constant", warmup=0.0)
WAYS: dict[int, dict[str, Any]] = {
    **{stage: {"zero": stage} for stage in (1, 2, 3)},
    4: {"zero": 2, "offload": {"optimizer": "cpu"}},
    5: {"zero": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}
"""Hardware by a number: the ZeRO stage, and above 3 with optimizer or weights outside the device."""
PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11], [12, 13], [5, 6, 7], [9, 3], [4, 4, 8], [11]]
ANSWERS = [[7, 8], [9, 10, 11, 12], [3], [5, 6, 7], [13, 12], [4, 5, 6, 7, 8], [10], [6, 9]]


def model(seed: int, width: int = 32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, max_position_embeddings=64, initializer_range=0.2, **shape)).eval()


def players(stage: int, ranks: Ranks) -> tuple[Player, Player]:
    """A policy and a critic, on engines under `stage`, or plain ones for 0."""
    modules = TokenLogprobs(model(0)), TokenValues(model(1).get_decoder(), 32)
    if not stage:
        return Player("policy", modules[0], SETTINGS, 8, ranks), Player("critic", modules[1], SETTINGS, 8, ranks)
    modules[0].rounds = ranks.most
    hardware = Hardware(gpus=0, **WAYS[stage])
    policy, critic = (
        ShardedPlayer(name, module, SETTINGS, 8, ranks, hardware=hardware, width=32)
        for name, module in zip(("policy", "critic"), modules, strict=True)
    )
    return policy, critic


def parts(ranks: Ranks, size: int) -> list[Any]:
    rows = range(ranks.rank, len(PROMPTS), ranks.size)
    return [
        batch_of([PROMPTS[i] for i in part], [ANSWERS[i] for i in part]) for part in (rows[n : n + size] for n in range(0, len(rows), size))
    ]


def learn(player: Player, ranks: Ranks, size: int = 4, scale: float = 1.0) -> float:
    """A step on the mean over all answers' tokens, in passes of `size` rows."""
    tokens = sum(map(len, ANSWERS))
    for batch in parts(ranks, size):
        found = player(batch)
        found = -found[0] if player.name == "policy" else (found - 1.0).square()
        player.backward(scale * found.sum() / tokens)
    return player.step()


def digest(player: Player) -> list[float]:
    """All weights of a player, whole, as a short list of sums by parameter and position."""
    found = []
    with player.whole():
        for parameter in player.module.parameters():
            flat = parameter.detach().double().flatten()
            found += [float(flat.sum()), float((flat * torch.linspace(-1, 1, len(flat), dtype=torch.float64)).sum())]
    return found


def alternating(stage: int, ranks: Ranks) -> Any:
    """Steps of one player, then of the other, then of both; what each left of the other's weights."""
    policy, critic = players(stage, ranks)
    told: dict[str, Any] = {"norms": []}
    for turn, (mover, other) in enumerate(((policy, critic), (critic, policy), (critic, policy), (policy, critic))):
        before = [shards(p).detach().clone() for p in other.module.parameters()]
        told["norms"].append(learn(mover, ranks))
        told[f"still {turn}"] = all(torch.equal(a, shards(b)) for a, b in zip(before, other.module.parameters(), strict=True))
    return {**told, "policy": digest(policy), "critic": digest(critic)}


def accumulating(stage: int, ranks: Ranks) -> Any:
    found = {}
    for size in (4, 1):
        policy, _ = players(stage, ranks)
        found[str(size)] = [learn(policy, ranks, size) for _ in range(3)] + digest(policy)
    return found


def clipping(stage: int, ranks: Ranks) -> Any:
    """The policy's weights after two steps beside a critic with a loss of one scale, and of another."""
    found = {}
    for scale in (1.0, 1000.0):
        policy, critic = players(stage, ranks)
        for _ in range(2):
            learn(critic, ranks, scale=scale)
            learn(policy, ranks)
        found[str(scale)] = digest(policy)
    return found


def forgetting(stage: int, ranks: Ranks) -> Any:
    found = {}
    for forget in (False, True):
        policy, _ = players(stage, ranks)
        learn(policy, ranks)
        if forget:
            for batch in parts(ranks, 2):
                policy.backward(5.0 * policy(batch)[0].sum())
            policy.forget()
        found[str(forget)] = [learn(policy, ranks, 2), *digest(policy)]
    return found


def spoilt(stage: int, ranks: Ranks) -> Any:
    """A gradient that is infinite on the second process: what each is told."""
    policy, _ = players(stage, ranks)
    for batch in parts(ranks, 4):
        policy.backward(policy(batch)[0].sum() * (1.0 if ranks.first else float("inf")))
    try:
        policy.step()
    except NotFiniteError as error:
        return {"told": str(error), "may skip": policy.may_skip, "taken": policy.taken}
    return {"told": ""}


def lowering(stage: int, ranks: Ranks) -> Any:
    """How far one step goes at the whole learning rate, and at what a roll back has left of it."""
    found = {}
    for factor in (1.0, 0.5):
        policy, _ = players(stage, ranks)
        before, policy.lowered = digest(policy), factor
        learn(policy, ranks)
        found[str(factor)] = [now - then for now, then in zip(digest(policy), before, strict=True)]
    return found


def generating(stage: int, ranks: Ranks) -> Any:
    """Answers of very different lengths on the two processes, and how many gathers they cost."""
    import deepspeed.comm as messages

    policy, _ = players(stage, ranks)
    engine = Transformers(policy.module.model)
    gathers = [0]
    real = {name: getattr(messages, name) for name in ("allgather_fn", "all_gather_into_tensor", "all_gather")}

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            gathers[0] += 1
            return function(*arguments, **named)

        return call

    for name, function in real.items():
        setattr(messages, name, counted(function))
    told = {}
    for longest in (2, 30):
        gathers[0] = 0
        with policy.whole():
            limit = 1 if ranks.first else longest
            answers = engine.generate(PROMPTS[:3], seeds=[1, 2, 3], temperature=1.0, max_new_tokens=limit, end_ids=[])
        told[str(longest)] = {"gathers": gathers[0], "ids": [answer.ids for answer in answers]}
    for name, function in real.items():
        setattr(messages, name, function)
    learn(policy, ranks)  # the hooks are back
    return {**told, "after": digest(policy)}


def chunks(stage: int, ranks: Ranks) -> Any:
    """A head in many small pieces, each computed again in the backward pass."""
    found = {}
    for logits in (1 << 25, 80):
        logprobs.LOGITS_AT_ONCE = logits
        policy, _ = players(stage, ranks)
        found[str(logits)] = [learn(policy, ranks), learn(policy, ranks)]
    logprobs.LOGITS_AT_ONCE = 1 << 25
    return found


def saving(stage: int, ranks: Ranks) -> Any:
    """Both players saved, loaded into new ones, and taken a step further than the first ones."""
    folder = Path(sys.argv[1]).parent / f"saved-{stage}"
    first, second = players(stage, ranks), players(stage, ranks)
    for player in first:
        learn(player, ranks)
        player.save(folder)
    going_on = [learn(player, ranks) for player in first]
    for player, before in zip(second, first, strict=True):
        learn(player, ranks)
        learn(player, ranks)
        player.restore(folder)
        player.taken = before.taken - 1
    resumed = [learn(player, ranks) for player in second]
    return {
        "going on": going_on + [x for player in first for x in digest(player)],
        "resumed": resumed + [x for player in second for x in digest(player)],
    }


def putting(stage: int, ranks: Ranks) -> Any:
    """Weights taken, others put in their place, seen, and put back; then brought together."""
    policy, _ = players(stage, ranks)
    start, own = digest(policy), {name: tensor.clone() for name, tensor in policy.weights().items()}
    learn(policy, ranks)
    moved = {name: tensor.clone() for name, tensor in policy.weights().items()}
    policy.put(own)
    shown = digest(policy)
    policy.put(moved)
    learn(policy, ranks)
    whole = digest(policy)
    make_whole(policy.module, lambda: probe_of(policy.module), keep=ranks.first)
    names = [name for name, p in policy.module.named_parameters() if p.device.type != "meta"] if ranks.first else []
    plain = []
    for parameter in policy.module.parameters() if ranks.first else ():
        flat = parameter.detach().double().flatten()
        plain += [float(flat.sum()), float((flat * torch.linspace(-1, 1, len(flat), dtype=torch.float64)).sum())]
    return {"start": start, "shown": shown, "whole": whole, "plain": plain, "names": len(names)}


CHECKS = (alternating, accumulating, clipping, forgetting, spoilt, lowering, generating, chunks, saving, putting)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    ranks = join(zero=3)
    found: dict[str, Any] = {}
    for stage in map(int, sys.argv[2:]):
        own = Ranks(ranks.rank, ranks.size, lockstep=stage > 1)
        for check in CHECKS:
            if stage or check.__name__ in ("alternating", "accumulating", "forgetting", "spoilt", "lowering", "generating", "chunks"):
                found[f"{check.__name__} {stage}"] = check(stage, own)
    Path(f"{sys.argv[1]}-{ranks.rank}.json").write_text(json.dumps(found))
