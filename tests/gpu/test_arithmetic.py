"""Fast arithmetic on a GPU is that of the plain path, as far as its precision goes."""

import numpy as np
import pytest
import torch

from stages.contract import Hardware
from stages.core.causal import teach
from stages.core.kernels import fused
from stages.core.logprobs import TokenLogprobs, batch_of
from stages.core.models import choose_precision
from stages.core.rows import Document, collate
from tests.stages.tiny import causal_lm, tokenizer_of

GPU = Hardware(gpus=1)
LENGTHS = (40, 7, 130, 63)


def model(implementation: str = "documents", width: int = 256):
    made = causal_lm(tokenizer_of([f"w{n}" for n in range(200)]), width=width, layers=4, context=256)
    made.set_attn_implementation(implementation)
    return made.to("cuda")


def packed(seed: int = 0) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    batch = collate([[Document(random.integers(10, 200, length).astype(np.int32)) for length in LENGTHS]])
    return {name: tensor.to("cuda") for name, tensor in batch.items()}


def loss_and_gradients(made, dtype: torch.dtype) -> tuple[float, list[torch.Tensor]]:
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = teach(made)(**packed())
    loss.backward()
    return float(loss), [p.grad.float() for p in made.parameters()]


def test_what_the_gpu_is_fast_at_is_chosen():
    generation = torch.cuda.get_device_capability()[0]
    assert choose_precision(GPU).dtype == {6: torch.float32, 7: torch.float16}.get(generation, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_learn_what_fp32_learns(dtype: torch.dtype):
    exact, gradients = loss_and_gradients(model(), torch.float32)
    rough, others = loss_and_gradients(model(), dtype)
    assert rough == pytest.approx(exact, rel=5e-3)
    for one, two in zip(gradients, others, strict=True):
        assert float((one - two).norm()) <= 0.1 * float(one.norm()) + 1e-6


def test_flash_over_packed_documents_is_each_document_alone():
    """The variable-length flash call in bf16, against plain attention in fp32 and each document by itself."""
    made, batch = teach(model()), packed()
    with torch.autocast("cuda", torch.bfloat16):
        flash = float(made(**batch))
    plain, total, start = model("eager"), 0.0, 0
    ids = batch["input_ids"][0]
    for length in LENGTHS:
        part = ids[start : start + length][None]
        logits = plain(input_ids=part, use_cache=False).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum"))
        start += length
    assert flash == pytest.approx(total, rel=5e-3)


def test_log_probabilities_in_bf16_are_near_those_in_fp32_and_summed_in_fp32():
    batch = batch_of([[20, 21, 22]] * 4, [[30 + n] * (5 + n) for n in range(4)], "cuda")
    exact, rough = (TokenLogprobs(model(), 1.0, dtype)(batch)[0] for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.1)


def test_tf32_and_compiled_layers_change_losses_by_rounding_alone():
    exact, _ = loss_and_gradients(model(), torch.float32)
    compiled, _ = loss_and_gradients(fused(model(), Hardware(gpus=1, kernels="compile")), torch.float32)
    assert compiled == pytest.approx(exact, rel=1e-3)


@pytest.mark.needs("liger_kernel")
def test_ligers_kernels_give_the_loss_and_gradients_of_plain_ones():
    exact, gradients = loss_and_gradients(model(), torch.float32)
    fast, others = loss_and_gradients(fused(model(), Hardware(gpus=1, kernels="liger")), torch.float32)
    assert fast == pytest.approx(exact, rel=1e-4)
    for one, two in zip(gradients, others, strict=True):
        assert float((one - two).norm()) <= 1e-2 * float(one.norm()) + 1e-6
