"""A base held in four bits (NF4, Dettmers et al. 2023) through bitsandbytes, for QLoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from data.errors import DataError
from stages.adapters.config import QLora


def options_of(config: QLora, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that quantise a model while it is loaded. Raises DataError where that cannot be done here."""
    if find_spec("bitsandbytes") is None:
        raise DataError(
            "adapter: kind qlora needs bitsandbytes, which is not installed: pip install 'recipe-pipeline[qlora]'; or use kind: lora"
        )
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double,
        bnb_4bit_compute_dtype=arithmetic_of(device),
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def arithmetic_of(device: torch.device) -> torch.dtype:
    """What four bits are unpacked to before they are multiplied: the fastest that the device has."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def exact(model: Any) -> Any:
    """The same model without bitsandbytes' fast path on CPUs with AVX512-BF16.

    On the first pass without a gradient it rounds the scales of the four bits to bf16 for good: answers would be drawn from another model than
    the one that learns.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def unrounded(model: Any) -> Iterator[None]:
    """Make a trainer inside: TRL's turn an adapter on four bits into bf16, in which small updates are lost; weights that train stay as they are."""
    held = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad] if is_quantised(model) else []
    yield
    for parameter, data in held:
        parameter.data = data


def is_quantised(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def merged_dequantised(model: Any) -> Any:
    """A whole model in fp32: the base as its four bits read, which the adapter was trained on, and the adapter's updates added to it.

    Ours, because peft merges into the four bits, which rounds the update away. The peft model is used up.
    """
    from stages.adapters.combining import updates

    total: dict[str, torch.Tensor] = {}
    for name in model.base_model.active_adapters:
        for key, delta in updates(model, name).items():
            place = key.removeprefix("base_model.model.")
            total[place] = total.get(place, 0) + delta
    whole = model.unload().dequantize().float()
    with torch.no_grad():
        for place, delta in total.items():
            weight = whole.get_submodule(place).weight
            weight.add_(delta.to(weight.device))
    return whole
