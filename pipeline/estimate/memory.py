"""Memory of one process: what lies in it for good, and what comes and goes in each phase of a step. All in bytes.

Weights are stored in fp32 under every setting (`stages.core.zero`). Notation: P parameters that a process's players hold, T of them that train,
N processes, c bytes of the arithmetic (4 for fp32; 2 for bf16, by autocast).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from pipeline.estimate.shapes import Shape

FP32 = 4
BUCKET = 50_000_000
"""Elements of DeepSpeed's communication buffers, as in `stages.core.zero` (a test compares the two)."""
LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps whole between a layer's forward and backward pass at most: DeepSpeed's default `stage3_max_live_parameters`."""
CHUNK = 2048
"""Positions whose logits exist at once while a causal model learns (`stages.core.losses`)."""
LOGITS = 1 << 25
"""Most logits at once where PPO asks for log-probabilities (`stages.core.logprobs`)."""

Place = Literal["device", "cpu", "nvme"]


@dataclass(frozen=True)
class Setting:
    """How a stage is spread over processes: what memory depends on and the result does not."""

    processes: int = 1
    zero: int = 0
    optimizer: Place = "device"
    """Where the optimizer's state lies, and with it master weights and gradients."""
    parameters: Place = "device"
    """Where ZeRO-3 keeps its shards of the weights."""
    checkpointing: bool = False
    rows: int | None = None
    """Of a forward pass; None where each pass takes what it takes if the recipe leaves it open."""
    compute: int = 2
    """c."""
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def shards(self) -> int:
        """Over how many processes weights lie."""
        return self.processes if self.zero == 3 else 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by what they are for. `host` is main memory beside the device, and `node` such that all processes of a node share; neither
    is a part of the sum."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    logits: float = 0.0
    workspace: float = 0.0
    host: float = 0.0
    node: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, part) for part in PARTS))

    @property
    def state(self) -> float:
        """What lies there between steps: weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Memory)))


PARTS = ("weights", "gradients", "optimizer", "activations", "cache", "logits", "workspace")


def summed(parts: Iterable[Memory]) -> Memory:
    total = Memory()
    for part in parts:
        total = total + part
    return total


@dataclass(frozen=True)
class Bytes:
    """Bytes for each parameter of weights, gradients, master weights and the optimizer's moments."""

    weights: int = 4
    gradients: int = 4
    master: int = 4
    moments: int = 8


OURS = Bytes()
"""fp32 throughout; AdamW's two moments (Loshchilov & Hutter 2019). ZeRO-1 and 2 keep a master copy beside fp32 weights as well."""
DEEPSPEED = Bytes(weights=2, gradients=2 + 4, master=4, moments=8)
"""DeepSpeed's own mixed precision: 16-bit weights and gradients beside fp32 gradients, master weights and moments."""


def state(held: float, trained: float, setting: Setting, each: Bytes = OURS) -> Memory:
    """Weights, gradients and optimizer of an engine with P parameters of which T train (Rajbhandari et al. 2020, ZeRO; 2021, ZeRO-Infinity).

    ZeRO-0: all of it, and no master copy. ZeRO-1 shards the optimizer with its master copy, 2 the gradients too, 3 the weights too, which are then
    their own master copy where they are fp32 and on the optimizer's device. On the host lies what is offloaded; gradients go with the optimizer.
    """
    n = setting.processes
    weights = each.weights * held / setting.shards
    gradients = each.gradients * trained / (n if setting.zero >= 2 else 1)
    same = setting.zero == 3 and each.weights == FP32 and setting.optimizer == "device"
    master = each.master if setting.zero and not same else 0
    optimizer = (each.moments + master) * trained / (n if setting.zero else 1)
    host = 0.0
    if setting.optimizer != "device":
        # Gradients of a step gather on the host in fp32; on the device are only those on their way, in the bucket.
        host += (optimizer if setting.optimizer == "cpu" else 0.0) + FP32 * trained / n
        optimizer = gradients = 0.0
    if setting.parameters != "device":
        host += weights if setting.parameters == "cpu" else 0.0
        weights = 0.0
    return Memory(weights=weights, gradients=gradients, optimizer=optimizer, host=host)


def buffer(elements: float, setting: Setting, most: int = BUCKET) -> float:
    """Elements of a buffer that is really there: a GPU has all of it, a CPU's memory only what was written to."""
    return float(most) if setting.device == "cuda" else min(float(most), elements)


def exchange(trained: float, setting: Setting) -> float:
    """Buffers that gradients will travel in, as they lie there while a model is passed through.

    DDP holds a second copy of all gradients, in buckets (torch's Reducer, without `gradient_as_bucket_view`). DeepSpeed has one bucket for each
    type that is sent: fp32, and with autocast the type of the arithmetic too, which under ZeRO-3 takes its own size and under 1 and 2 fp32's.
    Under 1 and 2 they are made anew for each step, so that a CPU's memory holds them only once gradients are there.
    """
    if not trained or (setting.processes == 1 and not setting.zero):
        return 0.0
    if not setting.zero:
        return FP32 * trained
    if setting.zero < 3 and setting.device == "cpu":
        return 0.0
    second = 0 if setting.compute == FP32 else setting.compute if setting.zero == 3 else FP32
    return buffer(trained, setting) * (FP32 + second)


def reducing(trained: float, activations: float, setting: Setting) -> float:
    """What ZeRO-1 and 2 need beside the state while a bucket of gradients is reduced: under 2 the bucket, and a flat copy of it that is sent.

    Under 1 gradients move into the bucket, so that only the copy adds to them, and it comes after the backward pass. Under 2 the first bucket is
    full when as much of the model is behind it, with as much of the activations.
    """
    sent = FP32 * min(trained, float(BUCKET))
    if setting.zero == 1:
        return FP32 * buffer(trained, setting)
    return FP32 * buffer(trained, setting) + sent + activations * (1.0 - min(1.0, BUCKET / max(trained, 1.0)))


def scattering(held: float, trained: float, activations: float, setting: Setting) -> float:
    """What ZeRO-3 needs beside the state while the first full bucket is reduced: the bucket, a flat copy of it that is sent, which gloo copies again, and
    what the rest of the backward pass will want: parameters that were gathered, and activations."""
    left = 1.0 - min(1.0, BUCKET / max(trained, 1.0))
    sent = FP32 * min(trained, float(BUCKET)) * (2 if setting.device == "cpu" else 1)
    return exchange(trained, setting) + sent + gathered(held * left, setting) + activations * left


def gathered(held: float, setting: Setting, stored: int | None = None) -> float:
    """Parameters that ZeRO-3 brings together for a pass: those that live, and the message in which the next ones arrive."""
    if setting.zero != 3:
        return 0.0
    each = setting.compute if stored is None else stored
    return each * (min(held, LIVE) + min(held, BUCKET))


def casts(shape: Shape, head: int, setting: Setting, *, kept: bool) -> float:
    """Copies of the multiplied weights in the arithmetic's type. Autocast keeps them all where they train, or where a backward pass will want them;
    otherwise one layer's, and the output matrix's. ZeRO-3 gathers them in that type."""
    if setting.compute == FP32 or setting.zero == 3:
        return 0.0
    layers = shape.linear if kept else shape.linear / shape.layers
    return setting.compute * float(layers + head)


def stepping(trained: float, setting: Setting) -> float:
    """What an optimizer step needs beside the state: DeepSpeed flattens its shard of the gradients into a copy."""
    if not setting.zero or setting.optimizer != "device":
        return 0.0
    return FP32 * min(trained / setting.processes, LIVE if setting.zero == 3 else float("inf"))


def layer_activations(shape: Shape, setting: Setting) -> float:
    """Bytes that one decoder layer of transformers' Llama keeps for its backward pass, for each token.

    Counted from the tensors that autograd saves (a test counts them anew): of each norm its input and the normalised one in fp32, and 1/deviation; the
    norms' outputs, under autocast one copy for each matrix that reads them; queries, keys, values and the attention's output with its log-sum-exp; of
    the MLP four activations of its inner width. On a CPU the attention of packed documents is put together from parts, which are kept as well.
    """
    h, q, k, m, c = shape.hidden, shape.queries, shape.keys, shape.mlp, setting.compute
    norms = FP32 * (4 * h + 2)
    outputs = c * (5 * h if c != FP32 else 2 * h)
    attention = c * (2 * q + 2 * k) + FP32 * shape.heads + (c * q if setting.device == "cpu" else 0)
    return float(norms + outputs + attention + 4 * c * m)


def activations(shape: Shape, tokens: float, setting: Setting) -> float:
    """Kept for the backward pass over so many tokens: all layers, or with checkpointing each layer's input and one whole layer; and the ends of the model."""
    layer = layer_activations(shape, setting)
    layers = shape.layers * FP32 * shape.hidden + layer if setting.checkpointing else shape.layers * layer
    # Embeddings, the last norm with its input, cosines and sines, ids.
    ends = FP32 * (2 * shape.hidden + 1) + 2 * FP32 * shape.head_size + 16
    return tokens * (layers + ends)


def reading(shape: Shape, tokens: float, setting: Setting) -> float:
    """Alive at once in a pass that learns nothing: the stream, and the widest of one layer's parts."""
    h, m, c = shape.hidden, shape.mlp, setting.compute
    return tokens * (3 * FP32 * h + c * max(3 * m, 3 * shape.queries + 2 * shape.keys))


def learning_logits(shape: Shape, learned: float, setting: Setting) -> float:
    """Logits while a causal model learns so many positions: a chunk of them, as they come out and as probabilities; and the gradients that are computed
    along with the loss, of hidden states and of the output matrix, one more of the latter while they are added up.

    Under ZeRO-3 the output layer is asked for all positions at once, and logits, their logarithms and their gradients exist together.
    """
    v, c = shape.vocabulary, setting.compute
    copy = 0 if c == FP32 else c
    if setting.zero == 3:
        return learned * v * (3 * FP32 + copy)
    chunk = min(float(CHUNK), learned)
    return chunk * v * (2 * FP32 + 2 * copy) + learned * shape.hidden * 2 * FP32 + 2 * FP32 * shape.embedding


def answer_logits(shape: Shape, positions: float, setting: Setting, *, learns: bool) -> float:
    """Logits while log-probabilities of answers are asked for: pieces of at most `LOGITS`, and in a backward pass their gradients."""
    at_once = min(positions * shape.vocabulary, float(max(LOGITS, shape.vocabulary)))
    return at_once * (FP32 * (3 if learns else 2) + (0 if setting.compute == FP32 else setting.compute))


def cache(shape: Shape) -> float:
    """Bytes of keys and values of one token in all layers: fp32 under autocast too, since rotary positions turn keys in fp32 and transformers' cache
    holds values in the keys' type."""
    return float(shape.layers * 2 * shape.keys * FP32)


def without(setting: Setting) -> Setting:
    """The same setting for a model that stands apart from every engine: whole on each process."""
    return replace(setting, zero=0, processes=1, optimizer="device", parameters="device")
