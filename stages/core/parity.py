"""What a model says to fixed tokens: compared after every save and merge, and at the start of every stage with what the stage before left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.adapters.prompts import hidden_states, is_prompted
from stages.contract import Artifact, Probe, StageError

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest allowed difference of outputs after a save, by the dtype of the stored weights, relative to the largest output where that is above one."""
MERGE = 10.0
"""Times that, after a merge: a merged weight is one sum, and what it replaces were two products."""
START = 1e-3
"""Likewise at the start of a stage, whose device and attention may be others than those of the stage before."""


@torch.no_grad()
def outputs(model: Any, ids_BL: Tensor) -> Tensor:
    """Logits (B, L, V) of a causal model, or scores (B, 1) of a classifier, in float32, with or without adapters, virtual tokens included."""
    with torch.autocast(ids_BL.device.type, enabled=False):
        if not is_prompted(model):
            return model(input_ids=ids_BL, use_cache=False).logits.float()  # type: ignore[no-any-return]
        hidden_BLH = hidden_states(model, backbone(model), ids_BL)
        inner = model.get_base_model()
        if hasattr(inner, "score"):
            return inner.score(hidden_BLH[:, -1]).float()  # type: ignore[no-any-return]
        return inner.get_output_embeddings()(hidden_BLH).float()  # type: ignore[no-any-return]


def backbone(model: Any) -> Any:
    """The decoder inside a causal model or a classifier, bare or inside a peft model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix)


def fixed_ids(model: Any) -> Tensor:
    """Two rows of arbitrary tokens, the same for every call; without the pad token, behind which a classifier would stop reading."""
    from stages.core.models import context_of

    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (2, min(24, context_of(model))), generator=generator)
    pad = model.config.get_text_config().pad_token_id
    return (ids if pad is None else torch.where(ids == pad, (pad + 1) % vocabulary, ids)).to(model.device)


def beyond(ours: Tensor, difference: float, dtype: torch.dtype = torch.float32, times: float = 1.0) -> bool:
    """Whether outputs that should be equal differ by more than rounding; NaN does."""
    return not difference <= TOLERANCES[dtype] * times * max(1.0, float(ours.abs().max()))


@torch.no_grad()
def probe(model: Any, ids: Sequence[Sequence[int]] | None = None) -> Probe:
    """The model's answers to fixed tokens, or to those of an earlier probe. The model is left in its mode."""
    ids_BL = fixed_ids(model) if ids is None else torch.tensor(ids, device=model.device)
    was_training = model.training
    model.eval()
    with torch.autocast(ids_BL.device.type, enabled=False):
        hidden_BLH = hidden_states(model, backbone(model), ids_BL).float()
    said = outputs(model, ids_BL)
    model.train(was_training)
    width = hidden_BLH.size(-1)
    direction_H = torch.cos(torch.arange(width, device=ids_BL.device, dtype=torch.float32)) * (2 / width) ** 0.5
    if said.dim() == 3:
        said = said[:, :-1].gather(-1, ids_BL[:, 1:, None])
    return Probe(ids=ids_BL.tolist(), hidden=(hidden_BLH @ direction_H).flatten().tolist(), outputs=said.flatten().tolist())


def stated_probe(folder: Path) -> Probe | None:
    """What the artifact in a folder said when it was saved; None for a folder that others wrote."""
    file = folder / "artifact.json"
    return Artifact.model_validate_json(file.read_text(encoding="utf-8")).probe if file.exists() else None


def distance(stated: Probe, model: Any) -> float:
    """Largest difference between what a model says and what was stated; of hidden states where one of them scores and the other writes."""
    found = probe(model, stated.ids)
    pairs = [(stated.hidden, found.hidden)]
    if len(stated.outputs) == len(found.outputs):
        pairs.append((stated.outputs, found.outputs))
    return max(abs(one - other) for ours, theirs in pairs for one, other in zip(ours, theirs, strict=True))


def check_start(stated: Probe, model: Any, name: str, *, must_be_equal: bool) -> float:
    """The distance of a model that is about to be trained from the model that its stage declares as its start. Raises StageError if it is another one."""
    found = distance(stated, model)
    scale = max(1.0, *(abs(value) for value in (*stated.hidden, *stated.outputs)))
    if must_be_equal and not found <= START * scale:
        raise StageError(f"the model in training does not begin as '{name}': its outputs differ by {found:.3g} before the first step")
    return found
