"""Adapters put onto models through peft, each under a name of its own, so that several can share one base."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from data.errors import DataError
from stages.adapters.config import IA3, AdapterSpec, LowRank, Prefix, Prompt, PTuning
from stages.adapters.layers import is_tied, matching, no_layer, no_match
from stages.contract import StageError
from stages.core.seeds import seed_for

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
HEADS = {"lm_head", "score"}
INITS: dict[str, bool | str] = {"zero": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa", "olora": "olora"}
"""Our words for peft's `init_lora_weights`."""


def adapter_name(stage: str) -> str:
    """The name under which a stage's adapter lives in a model: no module's name, because peft filters weights by names between dots."""
    return f"{stage.replace('.', '_')}_adapter"


def add_adapter(model: Any, config: AdapterSpec, task: Task, *, seed: int = 0, name: str = "default", tokenizer: Any = None) -> Any:
    """A peft model whose adapter `name` (its start depends on the seed alone), and for SEQ_CLS also the score head, are all that trains.

    Earlier adapters of a peft model stay active, frozen. The base's own weights are untouched (PiSSA and OLoRA apart).

    Raises:
        StageError: a target is not in the model, or is an embedding or head tied to another, whose merged adapter would be wrong.
        DataError: prompt tuning starts from a text, and there is no tokenizer to read it.
    """
    from peft import get_peft_model

    settings = peft_config(model, config, task)
    earlier = list(model.base_model.active_adapters) if hasattr(model, "peft_config") else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "adapter"))
        if earlier:
            model.add_adapter(name, settings)
            train_only(model, name, [*earlier, name])
        else:
            model = get_peft_model(model, settings, adapter_name=name)
    if isinstance(config, LowRank) and config.plus_ratio is not None:
        for key, parameter in parameters_of(model, name).items():
            if "lora_B" in key or "lora_embedding_B" in key:
                parameter.lr_ratio = config.plus_ratio  # type: ignore[attr-defined]  # `adamw` asks for it
    if isinstance(config, Prompt) and config.text is not None:
        _begin_as(model, name, config.text, tokenizer)
    return model


def train_only(model: Any, name: str, active: Sequence[str]) -> None:
    """Make these adapters active, and `name` the only one that trains."""
    if model.peft_config[name].is_prompt_learning:
        model.set_adapter(name)
    else:
        model.base_model.set_adapter(list(active))
        model.active_adapter = name  # PeftModel's own word, which its saving asks
    for other in model.peft_config:
        for parameter in parameters_of(model, other).values():
            parameter.requires_grad_(other == name)


def parameters_of(model: Any, name: str) -> dict[str, torch.nn.Parameter]:
    """Parameters of one adapter, whole layers that it keeps included, by their names in the model; what two layers share by both."""
    named = model.named_parameters(remove_duplicate=False)
    return {key: p for key, p in named if f".{name}." in key or key.endswith(f".{name}")}


def peft_config(model: Any, config: AdapterSpec, task: Task) -> Any:
    """peft's settings for ours. The task is the stage's: without it, peft would lose a reward model's head on saving. Raises StageError."""
    import peft

    kind = peft.TaskType[task]
    if isinstance(config, LowRank):
        kept, tied = kept_layers(model, config.modules_to_save)
        return peft.LoraConfig(
            task_type=kind,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=target_modules(model, config.targets),
            use_rslora=config.rslora,
            use_dora=config.dora,
            init_lora_weights=INITS[config.init],
            modules_to_save=[*kept, *(["score"] if task == "SEQ_CLS" else [])] or None,
            ensure_weight_tying=tied,
        )
    if isinstance(config, IA3):
        inner = [name for name in ("down_proj",) if name in _last_names(model)]
        values = [name for name in ("k_proj", "v_proj") if name in _last_names(model)]
        if not inner or not values:
            raise StageError(f"adapter: ia3 knows layers named k_proj, v_proj and down_proj, and {_class(model)} has none; use kind: lora")
        saved = ["score"] if task == "SEQ_CLS" else None
        return peft.IA3Config(task_type=kind, target_modules=[*values, *inner], feedforward_modules=inner, modules_to_save=saved)
    width = model.config.get_text_config().hidden_size
    if isinstance(config, Prefix):
        heads = model.config.get_text_config()
        # peft's default are all attention heads; a model with fewer key-value heads wants as many of the prefix.
        size = getattr(heads, "head_dim", None) or width // heads.num_attention_heads
        key_heads = getattr(heads, "num_key_value_heads", None) or heads.num_attention_heads
        return peft.PrefixTuningConfig(
            task_type=kind,
            num_virtual_tokens=config.tokens,
            prefix_projection=config.projection,
            encoder_hidden_size=config.hidden_size or width,
            num_attention_heads=key_heads,
            token_dim=size * key_heads,
        )
    if isinstance(config, PTuning):
        return peft.PromptEncoderConfig(task_type=kind, num_virtual_tokens=config.tokens, encoder_hidden_size=config.hidden_size or width)
    if isinstance(config, Prompt):
        return peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=config.tokens, prompt_tuning_init="SAMPLE_VOCAB")
    raise TypeError(f"no peft settings for {type(config).__name__}")


def kept_layers(model: Any, names: Sequence[str]) -> tuple[list[str], bool]:
    """Layers that are to be trained as a whole, and whether one of them is embedding and head at once, which then stay one matrix.

    Raises StageError for a layer that is not there.
    """
    known = _last_names(model)
    for name in names:
        if name not in known:
            raise StageError(f"adapter.modules_to_save: {no_layer(name, known, known - {''})}")
    tied = tied_layers(model) & set(names)
    embedding = [_name_of(model, model.get_input_embeddings())] if tied else []
    # Whole names: peft takes every layer whose name only ends in what it is given, as input_layernorm does in norm.
    whole = dict.fromkeys(_names(model, torch.nn.Module))
    return [*embedding, *(layer for layer in whole if (last := layer.rsplit(".", 1)[-1]) in names and last not in tied)], bool(tied)


def tied_layers(model: Any) -> set[str]:
    """Last names of embedding and head where one matrix is both; none where each has its own."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    if not model.config.get_text_config().tie_word_embeddings or None in layers:
        return set()
    return {_name_of(model, layer) for layer in layers}


def _name_of(model: Any, layer: Any) -> str:
    whole: str = next(name for name, module in model.named_modules() if module is layer)
    return whole.rsplit(".", 1)[-1]


def target_modules(model: Any, targets: str | tuple[str, ...]) -> list[str]:
    """Names of the linear layers to adapt, as found in this model (bare, or with earlier adapters): last names, or whole ones for a `regex:`.

    Raises StageError for a target that is not there, or that is tied.
    """
    linear = {name.rsplit(".", 1)[-1]: name for name in _names(model, torch.nn.Linear)}
    if targets == "all-linear":
        return sorted(set(linear) - HEADS)
    if targets == "attention":
        return sorted(last for last, name in linear.items() if "attn" in name or "attention" in name)
    if isinstance(targets, str):
        return _matching(model, targets)
    known = _last_names(model)
    for target in targets:
        if target not in known:
            raise StageError(f"adapter.targets: {no_layer(target, known, linear)}")
    _refuse_tied(model, targets, "targets")
    return sorted(targets)


def _matching(model: Any, targets: str) -> list[str]:
    names = _names(model, torch.nn.Linear, torch.nn.Embedding)
    found = matching(targets, names)
    if not found:
        raise StageError(f"adapter.targets: {no_match(targets, names)}")
    _refuse_tied(model, {name.rsplit(".", 1)[-1] for name in found}, "targets")
    return found


def _names(model: Any, *kinds: type) -> list[str]:
    """Whole names of layers as the bare model has them: earlier adapters wrap layers, and have layers of their own."""
    inside = ("lora_", "ia3_", "modules_to_save", "original_module", "prompt_encoder")
    found = [name for name, module in model.named_modules() if isinstance(module, kinds) and not any(part in name for part in inside)]
    return [name.removeprefix("base_model.model.").removesuffix(".base_layer") for name in found]


def _refuse_tied(model: Any, names: Any, field: str) -> None:
    """Where one matrix is both embedding and head, an adapter on one of the two would merge into both."""
    tied = sorted(tied_layers(model) & set(names))
    if tied:
        raise StageError(f"adapter.{field}: {is_tied(tied[0])}")


def _begin_as(model: Any, name: str, text: str, tokenizer: Any) -> None:
    """Virtual tokens as the embeddings of a text's tokens, repeated or cut. Ours, because peft's would read a tokenizer from a path of its own."""
    if tokenizer is None:
        raise DataError("adapter.text: there is no tokenizer to read it with")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise DataError(f"adapter.text: '{text}' has no tokens")
    start = model.prompt_encoder[name].embedding.weight
    chosen = torch.tensor((ids * (-(-start.size(0) // len(ids))))[: start.size(0)], device=start.device)
    with torch.no_grad():
        start.copy_(model.get_input_embeddings().weight[chosen])


def _last_names(model: Any) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in _names(model, torch.nn.Module)}


def _class(model: Any) -> str:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def counted(model: Any) -> tuple[int, int]:
    """Parameters that train, and all of them; what several modules share counts once."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def described(model: Any, config: AdapterSpec) -> str:
    """A sentence for the log: what trains, and its share."""
    trained, total = counted(model)
    return f"adapter {config.label}: {trained:,} of {total:,} parameters train ({trained / total:.2%}); handed on by {config.hand_over}"


def merged(model: Any) -> Any:
    """The base model with every active adapter's update added to its weights in fp32. The peft model is used up."""
    from stages.adapters.quantised import is_quantised, merged_dequantised

    if is_quantised(model.get_base_model()):
        return merged_dequantised(model)
    adapters = list(model.base_model.active_adapters)
    return model.float().merge_and_unload(safe_merge=True, adapter_names=adapters)
