"""Loading and making models and tokenizers: local files only, safetensors only, no remote code, weights kept in fp32, packed rows isolated."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from data.errors import DataError
from stages.adapters.config import AdapterSpec, QLora
from stages.adapters.prompts import has_prompt, prompt_length
from stages.contract import FP16_AND_ZERO, Hardware, StageError
from stages.core import attention
from stages.core.config import Llama
from stages.core.kernels import fused
from stages.core.seeds import seed_for
from stages.core.trust import REFUSED, strict, wants_code

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The arithmetic of forward passes; weights and optimizer state are fp32 in any case."""

    name: str
    dtype: torch.dtype
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def device_of(hardware: Hardware) -> torch.device:
    """The CUDA device of this process, or the CPU."""
    if hardware.gpus == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    # Models are loaded before a trainer or a process group chooses the device: on the current one, all processes would share the first.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def choose_precision(hardware: Hardware) -> Precision:
    """bf16 where the device multiplies it fast, fp16 where it multiplies that alone fast, else fp32, unless the recipe says which.

    Raises StageError where the recipe asks for fp16 under ZeRO.
    """
    sharded = hardware.zero not in (0, "auto")
    if hardware.precision == "fp16" and sharded:
        raise StageError(f"hardware.precision: {FP16_AND_ZERO}")
    if hardware.precision != "auto":
        return Precision(hardware.precision, DTYPES[hardware.precision], "set by hardware.precision")
    if device_of(hardware).type == "cuda":
        return _precision_of(torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0], sharded=sharded)
    if torch.cpu._is_amx_tile_supported():
        return Precision("bf16", torch.bfloat16, "this processor has fast bf16; weights stay fp32")
    return Precision("fp32", torch.float32, "this processor has no fast bf16")


def _precision_of(name: str, generation: int, *, sharded: bool) -> Precision:
    """Of a GPU: tensor cores multiply fp16 from compute capability 7 (V100, T4) on, and bf16 from 8 (A100) on."""
    if generation >= 8:
        return Precision("bf16", torch.bfloat16, f"{name} has fast bf16; weights stay fp32")
    if generation == 7 and not sharded:
        return Precision("fp16", torch.float16, f"{name} has fast fp16 and no bf16; weights stay fp32, losses are scaled")
    return Precision(
        "fp32", torch.float32, f"{name} has no fast bf16" + (", and fp16 is not possible under ZeRO" if generation == 7 else "")
    )


def load_tokenizer(path: Path) -> Any:
    """The fast tokenizer of a model or tokenizer folder. Raises DataError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **strict(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} holds no tokenizer that loads without remote code: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise DataError(f"{path}: the tokenizer has no end-of-sequence token; take it over with a `tokenizer` stage first")
    return tokenizer


def load_causal_lm(path: Path, hardware: Hardware, *, trainable: bool = False) -> Any:
    """A causal model in fp32 on the process's device, in eval mode, its adapters merged as far as they can be.

    A base of four bits stays one, with its adapters, unless all weights are to be `trainable`: it is then what the four bits read.
    Raises DataError where the folder holds none, or an adapter without its base.
    """
    return _resolved(path, hardware, "CAUSAL_LM", trainable)


def load_reward_model(path: Path, hardware: Hardware, *, trainable: bool = False) -> Any:
    """A sequence classifier with one score, likewise; from a causal model the head is new, all zero."""
    return _resolved(path, hardware, "SEQ_CLS", trainable)


def load_start(path: Path, hardware: Hardware, adapter: AdapterSpec | None, task: Literal["CAUSAL_LM", "SEQ_CLS"]) -> Any:
    """The model that a stage trains: whole, or as a base with earlier adapters that stay; in 4 bits where the adapter asks for it."""
    from stages.adapters.start import load_start as resolve

    quantised = adapter if isinstance(adapter, QLora) else None
    return resolve(path, adapter, task, lambda folder: load_base(folder, hardware, task, quantised))


def load_base(path: Path, hardware: Hardware, task: Literal["CAUSAL_LM", "SEQ_CLS"], quantised: QLora | None = None) -> Any:
    """A whole model, as its folder holds it."""
    kind, options = (AutoModelForCausalLM, {}) if task == "CAUSAL_LM" else (AutoModelForSequenceClassification, {"num_labels": 1})
    if quantised is not None:
        from stages.adapters.quantised import exact, options_of

        return exact(_load(kind, path, **options, **options_of(quantised, device_of(hardware))).eval())
    # Under ZeRO-3 no device ever has room for all of it: it goes there weight by weight, in shards (`stages.core.zero.shard`).
    home = torch.device("cpu") if hardware.zero == 3 else device_of(hardware)
    return fused(_load(kind, path, **options).to(home), hardware).eval()


def _resolved(path: Path, hardware: Hardware, task: Literal["CAUSAL_LM", "SEQ_CLS"], trainable: bool) -> Any:
    from stages.adapters.bases import adapters_in
    from stages.adapters.building import merged
    from stages.adapters.files import load_adapters, quantised_in

    found = adapters_in(path)
    if found is None:
        return load_base(path, hardware, task)
    quantised = quantised_in(found)
    model = load_adapters(path, found, lambda folder: load_base(folder, hardware, task, quantised), task)
    return model if has_prompt(model) or (quantised and not trainable) else merged(model).eval()


def _load(kind: Any, path: Path, **options: Any) -> Any:
    try:
        model, info = kind.from_pretrained(
            path,
            **strict(path),
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation=attention.NAME,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} holds no model that loads from safetensors without remote code: {_first_line(error)}") from error
    new = set(info["missing_keys"])
    if new - {"score.weight"}:
        raise DataError(f"{path}: weights are missing for {', '.join(sorted(new)[:3])}")
    if new:  # a fresh head; random scores would have to be unlearned first
        torch.nn.init.zeros_(model.score.weight)
    return model


def new_llama(shape: Llama, tokenizer: Any, seed: int, *, bare: bool = False) -> Any:
    """A LLaMA-style model of that shape, with the tokenizer's vocabulary and end tokens; its weights depend on the seed alone, or are not there (`bare`)."""
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    width = shape.hidden_size
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=shape.initializer_range or (width**-0.5 if width < 1024 else 0.02),
        tie_word_embeddings=shape.tied_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=attention.NAME,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights"))
        if not bare:
            return LlamaForCausalLM(config)
        with init_empty_weights(include_buffers=False):
            model = LlamaForCausalLM(config)
    model.tie_weights()  # each was given an empty one of its own
    return model


def check_fit(model: Any, tokenizer: Any, path: Path) -> None:
    """A tokenizer with ids that the model has no embedding for, or whose padding would hide the end, is refused with a DataError."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise DataError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens and the model only {rows} embeddings: they do not belong together"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError(
            f"{path}: the pad token is the end-of-sequence token, so that the end could not be learned; take it over in a tokenizer stage "
            "(`existing: ...`), which adds a pad token, and name that stage as `tokenizer` of the one that begins with this model"
        )


def without_dropout(model: Any) -> Any:
    """The model with every dropout's share at 0, so that training mode (which gradient checkpointing needs) computes what eval mode does: the two
    conversations of a pair are scored by one function, and the first ratio of an update is 1."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Some layers call torch's function with a share of their own: attention_dropout, resid_pdrop.
        for name, share in list(vars(module).items()):
            if "drop" in name and isinstance(share, float):
                setattr(module, name, 0.0)
    return model


def context_of(model: Any) -> int:
    """The longest sequence that a model takes, in tokens; virtual tokens take places of it."""
    return int(model.config.get_text_config().max_position_embeddings) - prompt_length(model)


def _first_line(error: Exception) -> str:
    if wants_code(error):
        return REFUSED
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
