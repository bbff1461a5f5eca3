"""A base held in four bits (NF4, Dettmers et al. 2023) through bitsandbytes, for QLoRA."""

from importlib.util import find_spec
from typing import Any

import torch

from data.errors import DataError
from stages.adapters.config import QLora


def options_of(config: QLora, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that quantise a model while it is loaded. Raises DataError where that cannot be done here."""
    if find_spec("bitsandbytes") is None:
        raise DataError("adapter: kind qlora needs bitsandbytes, which is not installed: pip install bitsandbytes; or use kind: lora")
    if device.type != "cuda":
        raise DataError("adapter: kind qlora needs a CUDA device, and this process has none; use kind: lora")
    from transformers import BitsAndBytesConfig

    fast = torch.cuda.get_device_capability(device)[0] >= 8
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double,
        bnb_4bit_compute_dtype=torch.bfloat16 if fast else torch.float16,
    )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def is_quantised(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def dequantised(model: Any) -> Any:
    """The whole model in fp32, its weights as the four bits read."""
    return model.dequantize().float()
