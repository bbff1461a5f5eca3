"""A sequence classifier that is taught to read forked rows: many pairs at once, each scored at the last token of both conversations."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.adapters.prompts import has_prompt, hidden_states
from stages.contract import StageError
from stages.core.rewards import backbone_of, last_token_scores
from stages.core.statistics import Floats
from stages.core.watchdog import beat
from stages.reward import attention
from stages.reward.attention import Fork
from stages.reward.rows import Pair, micro_batches, row_of

TOKENS_AT_ONCE = 8192
"""Most tokens of one forward pass where the pairs of a micro-batch are not given."""
TOLERANCE = 1e-3
"""Allowed difference of a score in a forked row from the same conversation's alone; a leak between pairs is far above it."""


def teach(model: Any) -> Any:
    """Give the classifier (bare or inside a peft model) a forward pass that returns the scores of a forked row, (pairs, 2) float32.

    It has to be the forward pass: DDP and DeepSpeed only synchronise what goes through it. Called without `forks` it answers as before.
    Raises StageError if the architecture does not compute forked rows exactly; checked on the spot.
    """
    inner, taught = classifier_of(model), model if has_prompt(model) else classifier_of(model)
    stock, usual = taught.forward, inner.config._attn_implementation
    if not has_prompt(model):  # virtual tokens lie before each conversation, which therefore gets a row of its own
        inner.set_attn_implementation(attention.NAME)

    def forward(self: Any, *args: Any, forks: Any = None, ends: Tensor | None = None, **inputs: Any) -> Any:
        if forks is None or ends is None:
            return stock(*args, **inputs)
        if has_prompt(self):
            last_N2H = one_by_one(self, backbone_of(inner), inputs["input_ids"][0], forks)
        else:
            row = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"], "forks": forks}
            last_N2H = backbone_of(inner)(**row, use_cache=False).last_hidden_state[0][ends]
        # Outside autocast: differences of rewards are small against the rewards, and bf16 has three digits.
        with torch.autocast(last_N2H.device.type, enabled=False):
            scores: Tensor = inner.score(last_N2H.float())[..., 0]
        return scores

    taught.forward = MethodType(forward, taught)
    inner.usual_attention = usual
    _check(model)
    return model


def one_by_one(model: Any, backbone: Any, ids_T: Tensor, forks: Sequence[Fork]) -> Tensor:
    """Last hidden states (pairs, 2, H) of the conversations of a forked row, each computed as a row of its own behind the virtual tokens."""
    rows: list[Tensor] = []
    begin = 0
    for fork in forks:
        first = ids_T[begin : begin + fork.first]
        own = ids_T[begin + fork.first : begin + fork.first + fork.second]
        rows += [first, torch.cat([first[: fork.shared], own])]
        begin += fork.first + fork.second
    hidden_BLH = hidden_states(model, backbone, nn.utils.rnn.pad_sequence(rows, batch_first=True))
    last_B = torch.tensor([len(row) - 1 for row in rows], device=ids_T.device)
    last_BH = hidden_BLH[torch.arange(len(rows), device=ids_T.device), last_B]
    return last_BH.view(-1, 2, last_BH.size(-1))


def untaught(model: Any) -> Any:
    """The model with its own forward pass and attention again."""
    inner = classifier_of(model)
    inner.set_attn_implementation(vars(inner).pop("usual_attention"))
    del (model if has_prompt(model) else inner).forward
    return model


def classifier_of(model: Any) -> Any:
    """The classifier inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def score_pairs(model: Any, pairs: Sequence[Pair]) -> Floats:
    """Scores of the chosen and the rejected conversations, (N, 2), by a taught model; it is left in its mode."""
    was_training = model.training
    model.eval()
    scores_N2 = np.empty((len(pairs), 2))
    for places in micro_batches(pairs, most_pairs=len(pairs), most_tokens=TOKENS_AT_ONCE):
        beat()
        row = row_of([pairs[place] for place in places])
        tensors = {name: getattr(row, name).to(model.device) for name in ("input_ids", "position_ids", "ends")}
        scores_N2[places] = model(**tensors, forks=row.forks).double().cpu().numpy()
    model.train(was_training)
    # Two equal conversations are a tie, which rounding would decide: in a forked row they are computed in different ways.
    same_N = np.array([pair.chosen == pair.rejected for pair in pairs])
    scores_N2[same_N, 1] = scores_N2[same_N, 0]
    return scores_N2


def _check(model: Any) -> None:
    """Forked must equal alone; cheap, and catches whatever a new architecture does differently. A new head is zero, so it is lent weights."""
    inner = classifier_of(model)
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    random = np.random.default_rng(0)
    rows = inner.get_input_embeddings().num_embeddings
    first, second, third = ([int(token) for token in random.integers(rows, size=size)] for size in (6, 4, 7))
    pairs = [Pair(first + second, first + third, len(first), None, "", {}), Pair(third + first, third + second, len(third), None, "", {})]
    head = inner.score.modules_to_save[inner.score.active_adapters[0]] if hasattr(inner.score, "modules_to_save") else inner.score
    kept = head.weight.detach().clone()
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, kept.numel()).view_as(kept))
        forked = score_pairs(model, pairs)
        inner.set_attn_implementation("sdpa")
        alone = last_token_scores(model, [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]).double().numpy().reshape(-1, 2)
        if not has_prompt(model):
            inner.set_attn_implementation(attention.NAME)
        head.weight.copy_(kept)
    difference = float(np.abs(forked - alone).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(alone).max())):
        raise StageError(f"{type(inner).__name__} does not keep pairs in one row apart here (scores differ by {difference:.3g})")
