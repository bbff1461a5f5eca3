"""FLOPs and hours: numbers done by hand, and published runs."""

import pytest

from pipeline.errors import RecipeError
from pipeline.estimate import compute
from pipeline.estimate.gpus import gpu_named, size_of
from pipeline.estimate.shapes import Shape

TINY = Shape(vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, context=8)


def test_a_forward_pass_is_counted_as_by_hand():
    multiplied = 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 6)
    assert TINY.linear == multiplied == 240
    assert compute.attention(TINY, 8) == 4 * 2 * 4 * 8
    assert compute.forward(TINY, 8) == 2 * (240 + 40) + 256
    assert compute.forward(TINY, 8, "score") == 2 * (240 + 4) + 256


def test_learning_is_three_passes_one_more_where_it_recomputes_and_two_where_weights_are_frozen():
    once = compute.forward(TINY, 8)
    assert compute.learning(TINY, 8) == 3 * once
    assert compute.learning(TINY, 8, checkpointing=True) == 4 * once
    assert compute.learning(TINY, 8, adapter=100) == 2 * once + 256 + 600


def test_palms_formula_is_ours():
    """6 N + 12 L H Q T for each token (Chowdhery et al. 2022, appendix B), with N the parameters without the looked-up embeddings."""
    shape = Shape(vocabulary=256_000, hidden=18_432, layers=118, heads=48, kv_heads=48, head_size=256, mlp=73_728, context=2048)
    theirs = 6 * (shape.linear + shape.embedding) + 12 * 118 * 48 * 256 * 2048
    assert compute.learning(shape, 2048) == pytest.approx(theirs, rel=1e-12)


def test_answers_take_as_long_as_reading_the_weights_for_each_token():
    h100 = gpu_named("h100")
    shape = Shape(vocabulary=32_000, hidden=8192, layers=4, heads=64, kv_heads=8, head_size=128, mlp=28_672, context=4096)
    work = compute.Writing(answers=16, prompt=1, answer=100, at_once=8, weights=1e11, cache=0.0)
    reading = 1e11 / (h100.bandwidth * compute.READ)
    prompts = 16 * compute.forward(shape, 1) / (h100.peak(2) * 0.4)
    assert compute.writing_seconds(shape, work, h100, 2, 0.4) == pytest.approx(2 * 100 * reading + prompts)
    small = compute.Writing(answers=1, prompt=1, answer=10, at_once=1, weights=1.0, cache=0.0)
    assert compute.writing_seconds(shape, small, h100, 2, 0.4) == pytest.approx(10 * 4 * compute.LAUNCH, rel=1e-3)


def test_an_unknown_gpu_and_an_unreadable_size_are_refused_with_what_is_meant():
    with pytest.raises(RecipeError, match=r"--gpu: found 'h101', wanted one of .*did you mean 'h10"):
        gpu_named("h101")
    with pytest.raises(RecipeError, match=r"--gpu-memory: found 'much', wanted a size such as 80GB"):
        size_of("much")
    assert (size_of("80GB"), size_of("80"), size_of("2 GiB"), size_of("1.5tb")) == (80 * 10**9, 80 * 10**9, 2 * 2**30, 15 * 10**11)
