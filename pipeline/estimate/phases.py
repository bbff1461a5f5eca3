"""Memory of a stage's process in each phase of its work, from its players and a setting. The phase that needs most decides whether it fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.estimate import memory as of
from pipeline.estimate.memory import FP32, Memory, Setting, summed
from pipeline.estimate.models import Held
from stages.core.workload import Workload

READ_AT_ONCE = {"cpu": 1024, "cuda": 8192}
"""Tokens of a forward pass over answers or pairs where the rows are not given (`stages.core.logprobs`)."""
CACHED_AT_ONCE = 1 << 16
"""Tokens in the cache at once where the rows are not given (`stages.core.generation`)."""
FOUR_BITS = 0.5 + 4 / 64
"""Bytes of a weight in NF4 with a scale for each block of 64 (Dettmers et al. 2023, QLoRA)."""
FOUR_BITS_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with the scales quantised to 8 bits, in blocks of 256."""


@dataclass(frozen=True)
class Rows:
    """What a forward pass takes at once."""

    length: int
    """Tokens of a row at most."""
    tokens: int
    """Tokens of a pass that learns."""
    written: int = 0
    """Answers in the cache at once."""
    read: int = 0
    """Tokens of a pass over answers."""


def phases(work: Workload, held: Sequence[Held], rows: Rows, setting: Setting, device_memory: int = 0) -> dict[str, Memory]:
    """The memory of one process by phase. `device_memory` is what another engine takes its share of."""
    if work.apart:
        return _one_by_one(held, rows, setting)
    found = _learning(held[0], rows, setting) if work.rows != "answers" else _answering(work, held, rows, setting)
    if work.engine_memory:
        taken = Memory(workspace=work.engine_memory * device_memory)
        found = {name: part + taken for name, part in found.items()}
    return found | {"start": _start(work, held, setting)}


def peak(found: dict[str, Memory]) -> tuple[str, Memory]:
    """The phase that needs most, and what it needs; main memory is the most of all phases."""
    name = max(found, key=lambda phase: found[phase].total)
    host, node = (max(getattr(part, place) for part in found.values()) for place in ("host", "node"))
    return name, replace(found[name], host=host, node=node)


def resting(player: Held, setting: Setting) -> Memory:
    """What lies there for a player as long as the stage runs: weights, gradients and optimizer. One that only judges has no engine below ZeRO-3."""
    if not player.trained:
        setting = replace(setting, optimizer="device")
    bits = FOUR_BITS_DOUBLE if getattr(player.player.adapter, "double", False) else FOUR_BITS
    return of.state(player.parameters - player.quantised * (1 - bits / FP32), player.trained, setting)


def _learning(model: Held, rows: Rows, setting: Setting) -> dict[str, Memory]:
    """Pretraining, SFT and reward models: one model, whose gradients are there while the last micro-batch of a step is learned."""
    rest = resting(model, setting)
    kept = of.activations(model.shape, rows.tokens, setting)
    passing = Memory(
        activations=kept,
        logits=of.learning_logits(model.shape, rows.tokens, setting) if model.head == "words" else 0.0,
        workspace=_passing(model, setting, learns=True) + of.exchange(model.trained, setting),
    )
    found = {"learning": rest + passing}
    buckets = of.exchange(model.trained, setting) if not setting.zero else 0.0
    found["step"] = rest + Memory(workspace=buckets + of.stepping(model.trained, setting))
    if setting.zero in (1, 2):
        found["reducing"] = rest + Memory(workspace=of.reducing(model.trained, kept, setting))
    if setting.zero == 3:
        found["reducing"] = rest + Memory(workspace=of.scattering(model.parameters, model.trained, kept, setting))
    return found


def _passing(model: Held, setting: Setting, *, learns: bool) -> float:
    """Weights beside those at rest while a model is passed through: gathered from shards, or cast for autocast. PPO's engines send and gather fp32."""
    head = model.shape.embedding if model.head == "words" else 0
    whole = model.adapter is None
    kept = bool(model.trained) and (whole or (learns and not setting.checkpointing))
    if model.player.reads:
        own = replace(setting, zero=min(setting.zero, 2))
        return of.gathered(model.parameters, setting, FP32) + _cast(model, head, own, kept=kept)
    return of.gathered(model.parameters, setting) + _cast(model, head, setting, kept=kept)


def _cast(model: Held, head: int, setting: Setting, *, kept: bool) -> float:
    """Casts of a model's weights; four bits are read into the arithmetic's type one matrix at a time, and never kept."""
    if model.quantised:
        return setting.compute * float(max(matrix.inputs * matrix.outputs for matrix in model.shape.matrices()) + head)
    return of.casts(model.shape, head, setting, kept=kept)


def _answering(work: Workload, held: Sequence[Held], rows: Rows, setting: Setting) -> dict[str, Memory]:
    """PPO and sampling: answers are drawn, read by every player, and learned from, by one player after the other."""
    rest = summed(resting(player, setting) for player in held)
    if setting.zero < 3:  # gradients go with each step, before the other player has any
        largest = max((resting(player, setting).gradients for player in held), default=0.0)
        rest = replace(rest, gradients=0.0)
    else:
        largest = 0.0
    found = {"reading": rest + max((_reading(player, rows, setting) for player in held), key=lambda part: part.total)}
    for player in held:
        if player.player.writes and not work.engine_memory:
            found["answers"] = rest + _writing(player, rows, setting)
        if player.player.learns:
            gradients = Memory(gradients=largest and resting(player, setting).gradients)
            found[f"learning, {player.player.name}"] = rest + gradients + _updating(player, rows, setting)
            step = FP32 * player.trained if setting.processes > 1 and not setting.zero else of.stepping(player.trained, setting)
            found[f"step, {player.player.name}"] = rest + gradients + Memory(workspace=step)
    return found


def _reading(player: Held, rows: Rows, setting: Setting) -> Memory:
    positions = rows.read if player.head == "words" else 0
    return Memory(
        activations=of.reading(player.shape, rows.read, setting),
        logits=of.answer_logits(player.shape, positions, setting, learns=False),
        workspace=_passing(player, setting, learns=False),
    )


def _updating(player: Held, rows: Rows, setting: Setting) -> Memory:
    positions = rows.tokens if player.head == "words" else 0
    alone = player.player.trunk
    return Memory(
        activations=0.0 if alone else of.activations(player.shape, rows.tokens, setting),
        logits=of.answer_logits(player.shape, positions, setting, learns=True),
        workspace=_passing(player, setting, learns=True) + (of.exchange(player.trained, setting) if setting.zero else 0.0),
    )


def _writing(player: Held, rows: Rows, setting: Setting) -> Memory:
    """A batch of answers on its way, at its longest: keys and values (those of one layer twice, while they grow), the last logits; and the policy as a
    whole on every process, since ZeRO-3's shards are gathered once for a rollout."""
    shape, cached = player.shape, rows.written * rows.length
    whole = 0.0
    if setting.zero == 3:
        whole = FP32 * player.parameters * (1 - (1 / setting.processes if setting.parameters == "device" else 0))
    prompt = of.reading(shape, cached, setting)
    return Memory(
        activations=prompt,
        cache=cached * of.cache(shape) * (1 + 1 / shape.layers),
        logits=rows.written * shape.vocabulary * (2 * FP32 + 8.0 + (0 if setting.compute == FP32 else setting.compute)),
        workspace=whole + _cast(player, shape.embedding, replace(setting, zero=0), kept=player.adapter is None and bool(player.trained)),
    )


def _start(work: Workload, held: Sequence[Held], setting: Setting) -> Memory:
    """Before anything is sharded every process holds each model whole: on its device, but for a new one, which is made in main memory.

    Under ZeRO-3 models wait in main memory, and go to the device in shards, one weight after the other. A new one the first process alone makes;
    of files in fp32 all processes of a node read the same pages, and others are read by each. A reference is the policy, looked at twice.
    """
    weights = {player: resting(player, of.without(setting)).weights for player in held}
    if setting.zero < 3:
        whole = sum(weights.values())
        return Memory(host=whole) if work.new else Memory(weights=whole)
    read = {player.player.field: (weight, player.mapped) for player, weight in sorted(weights.items(), key=lambda item: item[1])}
    once, each = (sum(weight for weight, mapped in read.values() if mapped is shared) for shared in (True, False))
    return Memory(host=each, node=once)


def _one_by_one(held: Sequence[Held], rows: Rows, setting: Setting) -> dict[str, Memory]:
    """Models that are held one after the other, each whole."""
    alone = of.without(setting)
    return {
        f"answers, {player.player.name}": resting(player, alone)
        + (_writing(player, rows, alone) if player.player.writes else _reading(player, rows, alone))
        for player in held
    }
