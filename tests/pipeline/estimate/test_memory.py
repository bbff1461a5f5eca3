"""Memory: numbers done by hand, DeepSpeed's own estimators, and the tensors that autograd really keeps."""

from typing import Any

import pytest

from pipeline.estimate import memory as of
from pipeline.estimate.memory import DEEPSPEED, Bytes, Setting, state
from pipeline.estimate.shapes import Shape

GPU = Setting(processes=8, compute=2)
TINY = Shape(vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, context=8)


def parts(memory: of.Memory) -> tuple[float, float, float]:
    return memory.weights, memory.gradients, memory.optimizer


def test_the_state_is_counted_as_by_hand_under_every_zero_level():
    """A thousand parameters, half of which train, on eight processes: bytes of weights, gradients, and moments with their master copy."""
    found = [parts(state(1000, 500, Setting(processes=8, zero=zero))) for zero in range(4)]
    assert found == [(4000, 2000, 4000), (4000, 2000, 750), (4000, 250, 750), (500, 250, 500)]


def test_what_is_offloaded_lies_on_the_host_and_not_on_the_device():
    optimizer = state(1000, 1000, Setting(processes=4, zero=3, optimizer="cpu"))
    assert parts(optimizer) == (1000, 0, 0)
    assert optimizer.host == 3000 + 1000  # master weights and moments, and gradients
    both = state(1000, 1000, Setting(processes=4, zero=3, optimizer="nvme", parameters="nvme"))
    assert (both.total, both.host) == (0, 1000)


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_in_deepspeeds_mixed_precision_the_state_is_what_deepspeed_estimates(gpus: int):
    """Of its own functions; they add for ZeRO-3 the largest layer, which we count as gathered weights."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as third
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as second

    count, layer = 7_000_000_000, 200_000_000
    _, on_gpu = second(count, num_gpus_per_node=gpus, cpu_offload=False)
    ours = state(count, count, Setting(processes=gpus, zero=2), DEEPSPEED)
    assert ours.total == pytest.approx(on_gpu, rel=1e-9)
    _, on_gpu, largest = third(count, layer, num_gpus_per_node=gpus, cpu_offload=False, cpu_offload_params=False)
    sharded = Bytes(weights=2, gradients=4, master=4, moments=8)  # of ZeRO-3 it leaves 16-bit gradients out
    ours = state(count, count, Setting(processes=gpus, zero=3), sharded)
    assert ours.total + largest == pytest.approx(on_gpu, rel=1e-9)
    _, on_gpu = second(count, num_gpus_per_node=gpus, cpu_offload=True)
    assert state(count, count, Setting(processes=gpus, zero=2, optimizer="cpu"), DEEPSPEED).total == pytest.approx(on_gpu, rel=1e-9)
    _, on_gpu, largest = third(count, layer, num_gpus_per_node=gpus, cpu_offload=True, cpu_offload_params=False)
    ours = state(count, count, Setting(processes=gpus, zero=3, optimizer="cpu"), DEEPSPEED)
    assert ours.total + largest == pytest.approx(on_gpu, rel=1e-9)
    in_memory, on_gpu, largest = third(
        count, layer, num_gpus_per_node=gpus, cpu_offload=True, cpu_offload_params=True, additional_buffer_factor=1
    )
    ours = state(count, count, Setting(processes=gpus, zero=3, optimizer="cpu", parameters="cpu"), DEEPSPEED)
    assert ours.total + largest == on_gpu
    assert ours.host * gpus == pytest.approx(in_memory, rel=1e-9)  # theirs is a node's


def test_constants_are_those_of_the_stages():
    from pipeline.estimate import phases
    from stages.core import generation, logprobs, zero

    assert of.BUCKET == zero.BUCKET
    assert of.LOGITS == logprobs.LOGITS_AT_ONCE
    assert (phases.READ_AT_ONCE, phases.CACHED_AT_ONCE) == (logprobs.TOKENS_AT_ONCE, generation.CACHED_TOKENS)


def saved(layers: int, settings: dict[str, Any], tokens: int, *, bf16: bool, checkpointing: bool) -> int:
    """Bytes that autograd keeps of a taught model's forward pass, weights and their casts left out."""
    import torch

    from stages.core.causal import teach
    from stages.core.config import Llama
    from stages.core.models import new_llama

    class Tokens:
        bos_token_id = eos_token_id = pad_token_id = 0

        def __len__(self) -> int:
            return 64

    model = new_llama(Llama(layers=layers, context=1024, **settings), Tokens(), 1).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    teach(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights and tensor.numel() % tokens == 0:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    positions = torch.arange(tokens // 4).repeat(4)[None]  # four documents: attention is put together from parts, as in training
    ids = torch.randint(64, (1, tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(input_ids=ids, position_ids=positions, learned=torch.arange(tokens - 1), targets=ids[0, 1:])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_a_layer_keeps_exactly_the_activations_that_are_counted(kv_heads: int, bf16: bool, checkpointing: bool):
    sizes = {"hidden_size": 64, "heads": 4, "kv_heads": kv_heads, "mlp_size": 192}
    one, two = (saved(layers, sizes, 132, bf16=bf16, checkpointing=checkpointing) for layers in (1, 2))
    shape = Shape(vocabulary=64, hidden=64, layers=1, heads=4, kv_heads=kv_heads, head_size=16, mlp=192, context=1024)
    setting = Setting(compute=2 if bf16 else 4, device="cpu")
    assert two - one == 132 * (4 * 64 if checkpointing else of.layer_activations(shape, setting))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_cache_holds_exactly_the_bytes_that_are_counted(bf16: bool):
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=10, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    model, cache = LlamaForCausalLM(config), DynamicCache(config=config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(input_ids=torch.zeros(2, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    shape = Shape(vocabulary=10, hidden=32, layers=3, heads=4, kv_heads=2, head_size=8, mlp=48, context=16)
    assert held == 2 * 7 * of.cache(shape)


def test_buffers_are_as_large_as_deepspeed_makes_them_on_a_gpu_and_as_what_is_written_on_a_cpu():
    assert of.exchange(1000, Setting(processes=2, zero=0)) == 4000  # DDP: a second copy of the gradients
    assert of.exchange(1000, Setting(processes=1, zero=0)) == 0
    assert of.exchange(1000, Setting(processes=2, zero=2, compute=4)) == 4 * of.BUCKET
    assert of.exchange(1000, Setting(processes=2, zero=2, compute=2)) == 8 * of.BUCKET
    assert of.exchange(1000, Setting(processes=2, zero=3, compute=2)) == 6 * of.BUCKET
    assert of.exchange(1000, Setting(processes=2, zero=3, compute=4, device="cpu")) == 4000


def test_zero_3_gathers_what_lives_and_what_arrives():
    assert of.gathered(1000, Setting(processes=2, zero=3, compute=4)) == 8000
    assert of.gathered(7e9, Setting(processes=8, zero=3, compute=2)) == 2 * (of.LIVE + of.BUCKET)
    assert of.gathered(1000, Setting(processes=2, zero=2)) == 0


def test_logits_exist_for_a_chunk_and_under_zero_3_for_all_positions():
    shape = Shape(vocabulary=100, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, context=8192)
    whole = Setting(compute=4)
    assert of.learning_logits(shape, 8192, whole) == 2048 * 100 * 8 + 8192 * 4 * 8 + 8 * 400
    assert of.learning_logits(shape, 8192, Setting(processes=2, zero=3, compute=4)) == 8192 * 100 * 12
