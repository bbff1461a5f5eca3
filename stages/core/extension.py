"""An existing model under a tokenizer that extends its own: by a pad token, by the special tokens of a chat template.

An id that meant another token to the model would look like bad training, so everything that the model knows must stay where it is.
"""

import json
from pathlib import Path
from typing import Any

import torch

from data.errors import DataError
from stages.adapters.config import AdapterSpec
from stages.contract import Hardware, Job
from stages.core.models import check_fit, context_of, load_start, load_tokenizer

PARTS = ("model", "normalizer", "pre_tokenizer")
"""Of tokenizer.json: what decides which ids a text becomes, special tokens aside."""


def tokenizer_of(job: Job) -> Any:
    """The tokenizer of a stage that begins with an existing model: what its `tokenizer` names, or else the model's own."""
    return load_tokenizer((job.inputs.get("tokenizer") or job.inputs["model"]).path)


def existing(job: Job, hardware: Hardware, adapter: AdapterSpec | None = None) -> tuple[Any, Any, list[str]]:
    """The stage's `model`, its tokenizer, and what was added to fit them together. Raises DataError where the two do not fit.

    Earlier adapters that `adapter` is to be trained on, or all weights, stay apart: what comes of them `stages.adapters.start` decides.
    """
    path = job.inputs["model"].path
    model, tokenizer = load_start(path, hardware, adapter, "CAUSAL_LM"), tokenizer_of(job)
    notes = []
    if "tokenizer" in job.inputs:
        notes = extend(model, load_tokenizer(path), tokenizer, path)
        tokenizer.model_max_length = context_of(model)
    check_fit(model, tokenizer, path)
    return model, tokenizer, notes


def extend(model: Any, own: Any, tokenizer: Any, path: Path) -> list[str]:
    """Make room in `model` for the tokens that `tokenizer` has beyond the model's `own`; a sentence on what was added.

    Their embeddings, and rows of an output head of its own, begin as the mean of the known ones: each new token starts as likely as the average.
    Raises DataError, naming the first difference, if `tokenizer` is not an extension.
    """
    new = new_tokens(own, tokenizer, path)
    if not new:
        return []
    known = [index for index in own.get_vocab().values() if index < model.get_input_embeddings().num_embeddings]
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    matrices = {
        id(weight): weight
        for weight in (_weight(model.get_input_embeddings()), _weight(model.get_output_embeddings()))
        if weight is not None
    }
    with torch.no_grad():
        for weight in matrices.values():
            weight[sorted(new.values())] = weight[sorted(known)].mean(0)
    return [f"{len(new)} new tokens ({', '.join(sorted(new, key=new.__getitem__)[:6])}) begin as the mean of the known embeddings"]


def new_tokens(own: Any, tokenizer: Any, path: Path) -> dict[str, int]:
    """Token to id of what `tokenizer` has beyond `own`. Raises DataError if it would read anything known otherwise."""
    theirs, ours = (json.loads(one.backend_tokenizer.to_str()) for one in (own, tokenizer))
    vocabulary = tokenizer.get_vocab()
    for token, index in own.get_vocab().items():
        if vocabulary.get(token) != index:
            raise DataError(
                f"{path}: the model knows token {token!r} as id {index}, the stage's tokenizer as {vocabulary.get(token, 'none')}; "
                "wanted the model's own tokenizer or one made from it (a tokenizer stage with `existing`)"
            )
    for part in PARTS:
        if theirs[part] != ours[part]:
            raise DataError(f"{path}: the stage's tokenizer cuts text otherwise than the model's own (`{part}` of tokenizer.json differs)")
    return {token: index for token, index in vocabulary.items() if token not in own.get_vocab()}


def _weight(layer: Any) -> Any:
    return None if layer is None else layer.weight
