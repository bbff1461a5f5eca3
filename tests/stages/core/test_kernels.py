"""Fused kernels give what the model's own operations give."""

import shutil

import numpy as np
import pytest
import torch

from data.errors import DataError
from stages.contract import Hardware
from stages.core.causal import teach
from stages.core.kernels import fused, tokenwise
from stages.core.rows import Document, collate


def test_only_modules_that_treat_tokens_alone_are_compiled(llama):
    model = llama()
    names = {id(module): name for name, module in model.named_modules()}
    found = sorted(names[id(module)] for module in tokenwise(model))
    layer = [
        f"model.layers.{n}.{part}"
        for n in range(len(model.model.layers))
        for part in ("input_layernorm", "mlp", "post_attention_layernorm")
    ]
    assert found == sorted([*layer, "model.norm"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_layers_give_the_loss_and_gradients_of_plain_ones_at_any_length(llama):
    plain, compiled = teach(llama()), teach(fused(llama(), Hardware(gpus=0, kernels="compile")))
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    random = np.random.default_rng(0)
    for lengths in ((4, 9), (17, 3)):
        batch = collate([[Document(random.integers(10, 300, length).astype(np.int32)) for length in lengths]])
        losses = []
        for model in (plain, compiled):
            model.zero_grad()
            losses.append(model(**batch))
            losses[-1].backward()
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-5)
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_liger_without_its_package_or_a_gpu_is_told(llama):
    with pytest.raises(DataError, match=r"hardware.kernels: liger needs"):
        fused(llama(), Hardware(gpus=0, kernels="liger"))
