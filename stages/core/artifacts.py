"""Artifacts: plain folders that load without this project, complete when they appear, and compared with what was trained before they do."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data.chat import end_ids
from stages.adapters.bases import folders_of
from stages.adapters.start import Kept
from stages.contract import Adapters, Artifact, Hardware, StageError
from stages.core.models import context_of, device_of
from stages.core.parity import MERGE, beyond, fixed_ids, outputs, probe
from stages.core.publishing import publish
from stages.core.trust import strict


def save_artifact(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    kind: Literal["causal-lm", "reward-model"],
    kept: Kept | None = None,
    reward_mean: float | None = None,
    reward_std: float | None = None,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
) -> Artifact:
    """Save a model and its tokenizer as a plain Hugging Face folder: whole, with adapters merged in fp32; or the `kept` adapters alone.

    Raises:
        StageError: the folder, loaded as a stranger would, gives other outputs than the model in memory; or merging changed them.
    """
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    merge_difference = None
    if hasattr(model, "peft_config") and kept is None:
        model, merge_difference = merged_and_compared(model.eval())
    model = model.eval()
    _name_ends(model, tokenizer, kind)
    said = outputs(model, fixed_ids(model))
    if dtype != torch.float32:
        model = model.to(dtype)

    def write(partial: Path) -> Artifact:
        adapters = None
        if kept is None:
            model.save_pretrained(partial, max_shard_size=shard_size)
        else:
            from stages.adapters.files import write_adapters

            adapters = write_adapters(model, kept.names, kept.settings, partial, kept.base)
        tokenizer.save_pretrained(partial)
        on = (kept.base.path, adapters) if kept and adapters else None
        difference = reload_difference(said, fixed_ids(model), partial, kind, on, dtype)
        return Artifact(
            kind=kind,
            **tokenizer_digests(partial, tokenizer),
            vocab_size=model.get_input_embeddings().num_embeddings,
            context_length=context_of(model),
            parameters=model.num_parameters(),
            trainable_parameters=trainable,
            reward_mean=reward_mean,
            reward_std=reward_std,
            reload_difference=difference,
            merge_difference=merge_difference,
            probe=probe(model),
            adapters=adapters,
        )

    return publish(folder, write)


def merged_and_compared(model: Any) -> tuple[Any, float]:
    """A peft model with its adapters merged, and by how much that changed its outputs. Raises StageError if by more than rounding."""
    from stages.adapters.building import merged
    from stages.adapters.quantised import arithmetic_of, is_quantised

    ids = fixed_ids(model)
    before = outputs(model, ids)
    # A base of four bits may multiply in half precision, which the merged one does not.
    dtype = arithmetic_of(ids.device) if is_quantised(model.get_base_model()) else torch.float32
    model = merged(model).eval()
    difference = float((outputs(model, ids) - before).abs().max())
    if beyond(before, difference, dtype, times=MERGE):
        raise StageError(f"merging the adapter changed the model's outputs by {difference:.3g}; the checkpoint is kept")
    return model, difference


def tokenizer_digests(folder: Path, tokenizer: Any) -> dict[str, str | None]:
    """The two digests by which a plan knows that models and data speak the same tokens: `tokenizer_digest`, `template_digest`."""
    template = tokenizer.chat_template
    return {
        "tokenizer_digest": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "template_digest": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
    }


def reload_difference(
    ours: Tensor, ids: Tensor, folder: Path, kind: str, on: tuple[Path, Adapters] | None = None, dtype: torch.dtype = torch.float32
) -> float:
    """Largest difference between what a model said to `ids` before it was saved and what its folder says, loaded as a stranger would.

    A stranger has plain transformers with its standard attention, and for adapters (`on` a base) peft. Raises StageError beyond the tolerance
    of the stored weights' dtype.
    """
    theirs = stranger(folder, kind, on).to(ids.device).eval()
    with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        # The logits of prompt tuning begin with those of its virtual tokens.
        said = theirs(input_ids=ids).logits.float()[..., -ours.size(-2) :, :]
    difference = float((ours - said).abs().max())
    if beyond(ours, difference, dtype):
        raise StageError(f"the saved model differs from the trained one by {difference:.3g} in its outputs: {folder} is not usable")
    return difference


def stranger(folder: Path, kind: str, on: tuple[Path, Adapters] | None = None) -> Any:
    """The folder's model by nothing but the public loaders."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    loader = AutoModelForCausalLM
    if kind == "reward-model":
        loader = AutoModelForSequenceClassification
        options |= {"num_labels": 1} if on else {}
    if on is None:
        return loader.from_pretrained(folder, **options, **strict(folder))
    from peft import PeftModel

    from stages.adapters.files import quantised_in
    from stages.adapters.quantised import exact, options_of

    base, adapters = on
    if (quantised := quantised_in(adapters)) is not None:
        options |= options_of(quantised, device_of(Hardware()))
    model, where = exact(loader.from_pretrained(base, **options, **strict(base))), {"torch_device": "cpu"}
    if kind == "reward-model":
        model.config.pad_token_id = _pad(folder)
    folders = folders_of(folder, adapters)
    first, *others = folders
    model = PeftModel.from_pretrained(model, str(folders[first]), first, **where)
    for name in others:
        model.load_adapter(str(folders[name]), name, **where)
    if others:
        model.base_model.set_adapter(list(folders), inference_mode=True)
    return model


def _pad(folder: Path) -> int | None:
    from stages.core.models import load_tokenizer

    pad: int | None = load_tokenizer(folder).pad_token_id
    return pad


def _name_ends(model: Any, tokenizer: Any, kind: str) -> None:
    """Tell configuration and generation which tokens end an answer and which is padding; switch the cache on again for users."""
    config = model.config
    config.use_cache = True
    config.eos_token_id, config.bos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id
    if kind == "causal-lm":
        from transformers import GenerationConfig

        ends = sorted(end_ids(tokenizer))
        model.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
        )
