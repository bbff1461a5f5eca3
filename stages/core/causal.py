"""The loss of a causal model on packed documents: summed over learned tokens, with the head applied to learned places only."""

from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches import IGNORE
from stages.adapters.prompts import has_prompt, is_prompted, lengths_of, packed_hidden_states
from stages.contract import StageError
from stages.core.losses import chunked_cross_entropy
from stages.core.rows import Document, PackedRows, Shape, collate
from stages.core.samples import Sampling
from stages.core.training import StageTraining
from stages.core.watchdog import beat


class CausalTraining(StageTraining):
    """Mixin: next tokens on packed documents, with a taught model and `stages.core.rows.collate`."""

    def __init__(self, *args: Any, sampling: Sampling, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sampling.trainer = self
        self.add_callback(sampling)

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> Tensor:
        loss = model(**batch)
        assert isinstance(loss, Tensor)  # noqa: S101
        return loss

    def items(self, batch: dict[str, Any]) -> int:
        return len(batch["targets"])


def teach(model: Any) -> Any:
    """Give the causal model a forward pass that returns the summed loss when called with `learned` and `targets`.

    It has to be the forward pass: DDP and DeepSpeed only synchronise what goes through it. Anything else is answered as before. Checked on
    the spot against the model's own logits on each document alone. Raises StageError if the architecture does not keep packed documents apart.
    """
    inner, taught = base(model), called(model)
    stock = taught.forward

    def forward(self: Any, *args: Any, learned: Tensor | None = None, targets: Tensor | None = None, **inputs: Any) -> Any:
        if learned is None or targets is None:
            return stock(*args, **inputs)
        if is_prompted(self):
            ids_T, positions_T = inputs["input_ids"][0], inputs["position_ids"][0]
            hidden_TH = packed_hidden_states(self, inner.base_model, ids_T, lengths_of(positions_T))
        else:
            row = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"]}
            hidden_TH = inner.base_model(**row, use_cache=False).last_hidden_state[0]
        head = inner.get_output_embeddings()
        if hasattr(head.weight, "ds_id"):  # ZeRO-3 gathers the head's weight only when the head is called
            return torch.nn.functional.cross_entropy(head(hidden_TH[learned]).float(), targets, reduction="sum")
        return chunked_cross_entropy(hidden_TH[learned], head.weight, targets)

    taught.forward = MethodType(forward, taught)
    _check(taught, stock)
    return model


def untaught(model: Any) -> Any:
    """The model with its own forward pass again."""
    vars(called(model)).pop("forward", None)
    return model


def called(model: Any) -> Any:
    """The module whose forward pass is taught: the causal model, or the peft model where it puts virtual tokens before the text."""
    return model if has_prompt(model) else base(model)


def base(model: Any) -> Any:
    """The causal model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check(model: Any, stock: Any) -> None:
    """Packed and learned must equal alone and plain; cheap, and catches whatever a new architecture does differently."""
    if any(hasattr(parameter, "ds_id") or parameter.is_meta for parameter in model.parameters()):
        return
    random = np.random.default_rng(0)
    rows = model.get_input_embeddings().num_embeddings
    documents = [Document(random.integers(rows, size=length).astype(np.int32)) for length in (7, 5, 7)]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        batch = {name: tensor.to(model.device) for name, tensor in collate([documents]).items()}
        packed, alone = float(model(**batch)), 0.0
        for document in documents:
            ids = torch.as_tensor(document.ids, dtype=torch.int64, device=model.device).unsqueeze(0)
            logits = stock(input_ids=ids).logits[0, -ids.size(1) : -1].float()
            alone += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum", ignore_index=IGNORE))
    model.train(was_training)
    if not abs(packed - alone) <= 1e-3 * max(1.0, abs(alone)):
        raise StageError(f"{type(model).__name__} does not keep packed documents apart here (loss {packed:.4f} packed, {alone:.4f} alone)")


def total_nats(model: Any, rows: Any, micro_batch: int) -> tuple[float, int]:
    """Summed -log p of the learned tokens of all rows, and their number. The model must be taught; it is left in its mode."""
    was_training = model.training
    model.eval()
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), micro_batch):
            beat()
            batch = collate([rows[index] for index in range(start, min(start + micro_batch, len(rows)))])
            tokens += len(batch["targets"])
            nats += float(model(**{name: tensor.to(model.device) for name, tensor in batch.items()}))
    model.train(was_training)
    return nats, tokens


def describe(rows: PackedRows, shape: Shape, model: Any) -> str:
    """What training will do, in a sentence."""
    epochs = shape.steps * shape.rows_per_step / rows.per_epoch
    return (
        f"{model.num_parameters():,} parameters; {shape.steps:,} steps of {shape.rows_per_step} rows, {epochs:.2f} epochs of {rows.per_epoch:,} rows; "
        f"{shape.micro_batch} rows in a forward pass"
    )
