"""Artifacts: plain folders that load without this project, complete when they appear, and compared with what was trained before they do."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch

from data.chat import end_ids
from stages.contract import Artifact, StageError
from stages.core.models import STRICT, context_of
from stages.core.publishing import publish

TOLERANCE = 1e-5
"""Largest allowed difference of fp32 logits, relative to the largest logit where that is above one."""


def save_artifact(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    kind: Literal["causal-lm", "reward-model"],
    reward_mean: float | None = None,
    reward_std: float | None = None,
) -> Artifact:
    """Save a model and its tokenizer as a plain Hugging Face folder; an adapter is merged in fp32 first.

    Raises:
        StageError: the folder, loaded as a stranger would, gives other outputs than the model in memory.
    """
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if hasattr(model, "merge_and_unload"):
        from stages.adapters.building import merged

        model = merged(model)
    model = model.eval()
    _name_ends(model, tokenizer, kind)

    def write(partial: Path) -> Artifact:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        difference = reload_difference(model, partial, kind)
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
        )

    return publish(folder, write)


def tokenizer_digests(folder: Path, tokenizer: Any) -> dict[str, str | None]:
    """The two digests by which a plan knows that models and data speak the same tokens: `tokenizer_digest`, `template_digest`."""
    template = tokenizer.chat_template
    return {
        "tokenizer_digest": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "template_digest": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
    }


def reload_difference(model: Any, folder: Path, kind: str) -> float:
    """Largest difference of outputs between a model in memory and its folder loaded by plain transformers, on fixed inputs.

    Raises StageError beyond TOLERANCE. Both run with standard attention: a stranger has no other.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification if kind == "reward-model" else AutoModelForCausalLM
    stranger = loader.from_pretrained(folder, **STRICT, dtype=torch.float32, attn_implementation="sdpa").to(model.device).eval()
    ids = _fixed_ids(model).to(model.device)
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        ours, theirs = model(input_ids=ids, use_cache=False).logits, stranger(input_ids=ids, use_cache=False).logits
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
        raise StageError(f"the saved model differs from the trained one by {difference:.3g} in its outputs: {folder} is not usable")
    return difference


def _fixed_ids(model: Any) -> torch.Tensor:
    """Two rows of arbitrary tokens, the same for every call; without the pad token, behind which a classifier would stop reading."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (2, min(24, context_of(model))), generator=generator)
    pad = model.config.get_text_config().pad_token_id
    return ids if pad is None else torch.where(ids == pad, (pad + 1) % vocabulary, ids)


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
