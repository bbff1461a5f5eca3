"""Low-rank adapters through peft: added so that they merge exactly, merged in fp32."""

from typing import Any, Literal

import torch

from stages.adapters.config import Lora
from stages.contract import StageError
from stages.core.seeds import seed_for


def add_adapter(model: Any, config: Lora, task: Literal["CAUSAL_LM", "SEQ_CLS"], *, seed: int = 0) -> Any:
    """A peft model whose adapter (its start depends on the seed alone), and for SEQ_CLS also the score head, are all that trains.

    Raises:
        StageError: a target is not in the model, or is an embedding or head tied to another, whose merged adapter would be wrong.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=target_modules(model, config.targets),
        # SEQ_CLS keeps the score head in the adapter; without a task it would be lost on saving.
        task_type=TaskType[task],
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "adapter"))
        return get_peft_model(model, settings)


def target_modules(model: Any, targets: Literal["attention", "all-linear"] | tuple[str, ...]) -> list[str]:
    """Last names of the linear layers to adapt, as found in this model."""
    head = {"lm_head", "score"}
    linear = {name.rsplit(".", 1)[-1]: name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if targets == "all-linear":
        return sorted(set(linear) - head)
    if targets == "attention":
        return sorted(last for last, name in linear.items() if "attn" in name or "attention" in name)
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for target in targets:
        if target not in known:
            raise StageError(f"adapter.targets: the model has no layer '{target}' (linear layers: {', '.join(sorted(linear))})")
        if target in ("embed_tokens", "lm_head") and model.config.get_text_config().tie_word_embeddings:
            raise StageError(
                f"adapter.targets: '{target}' shares its weights with another layer, so that an adapter on it would merge wrongly"
            )
    return sorted(targets)


def merged(model: Any) -> Any:
    """The base model with the adapter's update added to its weights in fp32. The peft model is used up."""
    return model.float().merge_and_unload(safe_merge=True)
