"""Arithmetic and time: FLOPs of passes through a decoder, and the hours that they take on a device at a given utilisation."""

from dataclasses import dataclass

from pipeline.estimate.gpus import GPU
from pipeline.estimate.shapes import Head, Shape

HOUR = 3600.0
LAUNCH = 1e-3
"""Seconds that one layer of a model takes at least for one more token of an answer, whatever its size: transformers' generation is bound by starting
kernels, about 30 ms a token for 32 layers. An assumption, until `--calibrate` measures."""
STEP, LAYER = 2e-3, 6e-4
"""Seconds that an optimizer step takes at least, and one layer in a forward and backward pass, whatever their size: Python, the trainer, autograd and
starting kernels. Of models of width 8 on a CPU (`benchmarks/step_floor.py`; docs/plan.md); on a GPU, where a kernel costs more to start, an assumption."""
READ = 0.6
"""Share of a device's bandwidth that reading weights and cache for one token reaches. An assumption likewise."""


def attention(shape: Shape, length: float) -> float:
    """FLOPs of one token's attention in all layers, forward: 4 x layers x width x length, as Chowdhery et al. 2022 (PaLM, appendix B) count them.

    Every token is counted against the whole row, as if attention were not causal; that is the convention of published utilisations.
    """
    return 4.0 * shape.layers * shape.queries * length


def forward(shape: Shape, length: float, head: Head = "words") -> float:
    """FLOPs of a forward pass for one token of a row of that length: 2 for each weight that multiplies it, and its attention.

    Embeddings are looked up, not multiplied; the output matrix counts also where it is tied to them (Kaplan et al. 2020; PaLM, appendix B).
    """
    return 2.0 * (shape.linear + (shape.embedding if head == "words" else shape.hidden)) + attention(shape, length)


def learning(shape: Shape, length: float, head: Head = "words", *, adapter: int | None = None, checkpointing: bool = False) -> float:
    """FLOPs of a forward and a backward pass for one token: three forward passes; with checkpointing, one more.

    A backward pass computes gradients of activations and of weights, each as much as a forward pass. With an adapter of so many parameters the
    base's weights need none: two forward passes, and 6 for each parameter of the adapter.
    """
    once = forward(shape, length, head)
    if adapter is None:
        return once * (4.0 if checkpointing else 3.0)
    # Attention has no weights of its own: its backward pass is a whole one in any case.
    return once * (3.0 if checkpointing else 2.0) + attention(shape, length) + 6.0 * adapter


def seconds(flops: float, peak: float, mfu: float, devices: int) -> float:
    """Time of so many model FLOPs on devices that reach a share `mfu` of their peak (model FLOPs utilisation, PaLM)."""
    return flops / (peak * mfu * devices)


def least(layers: int, passes: int) -> float:
    """Seconds of an optimizer step of so many passes, however small the model is and however fast the device."""
    return STEP + passes * layers * LAYER


@dataclass(frozen=True)
class Writing:
    """Answers drawn on one device."""

    answers: int
    prompt: int
    answer: int
    at_once: int
    """Answers in a batch."""
    weights: float
    """Bytes read for each token: the weights in the arithmetic's type, and once as they are stored where they are cast."""
    cache: float
    """Bytes of keys and values of one token."""


def writing_seconds(shape: Shape, work: Writing, gpu: GPU, compute: int, mfu: float) -> float:
    """Time to draw answers: a token at a time, each as slow as the slowest of reading weights and cache, of arithmetic, and of starting kernels.

    The prompts are read at the utilisation of training before. Answers are taken to be as long as they may be.
    """
    batches = -(-work.answers // work.at_once)
    length = work.prompt + work.answer / 2
    read = (work.weights + work.at_once * length * work.cache) / (gpu.bandwidth * READ)
    arithmetic = work.at_once * forward(shape, length) / (gpu.peak(compute) * mfu)
    token = max(read, arithmetic, shape.layers * LAUNCH)
    prompts = seconds(work.answers * work.prompt * forward(shape, work.prompt), gpu.peak(compute), mfu, 1)
    return prompts + batches * work.answer * token
