"""Virtual tokens (prefix, P-tuning, prompt tuning) as what they are to a decoder: a key-value cache that lies before the text.

peft's own forward pass prepends them to whatever it is given: it drops `position_ids`, which left padding and packed rows need, and its logits of
prompt tuning are longer than the text. One way for all kinds instead: the cache is filled once for one row and expanded, the text reads on from
there, at the positions behind the virtual tokens. Outputs equal peft's own, as tests hold.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def is_prompted(model: Any) -> bool:
    """Whether a model has virtual tokens, and they are not switched off."""
    configs = getattr(model, "peft_config", None)
    return isinstance(configs, dict) and any(c.is_prompt_learning for c in configs.values()) and not model._adapters_disabled


def has_prompt(model: Any) -> bool:
    """Whether a model has virtual tokens, switched on or off."""
    configs = getattr(model, "peft_config", None)
    return isinstance(configs, dict) and any(c.is_prompt_learning for c in configs.values())


def prompt_length(model: Any) -> int:
    """Places of the context that virtual tokens take."""
    return int(model.active_peft_config.num_virtual_tokens) if has_prompt(model) else 0


def prefilled(model: Any, backbone: nn.Module, rows: int) -> Any:
    """A cache of the virtual tokens' keys and values for so many rows, with their graph; None for a model without."""
    if not is_prompted(model):
        return None
    from peft import PeftType

    prompt = model.get_prompt(batch_size=1)
    if model.active_peft_config.peft_type != PeftType.PREFIX_TUNING:
        prompt = backbone(inputs_embeds=prompt, use_cache=True).past_key_values
    if rows > 1:
        prompt.batch_repeat_interleave(rows)
    return prompt


def hidden_states(model: Any, backbone: nn.Module, ids_BL: Tensor) -> Tensor:
    """Last hidden states (B, L, H) of rows that are padded on the right, if at all: causal attention keeps real tokens from seeing pads."""
    cache = prefilled(model, backbone, ids_BL.size(0))
    if cache is None:
        return backbone(input_ids=ids_BL, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
    begin = cache.get_seq_length()
    positions_1L = torch.arange(begin, begin + ids_BL.size(1), device=ids_BL.device)[None]
    return backbone(  # type: ignore[no-any-return]
        input_ids=ids_BL, position_ids=positions_1L, past_key_values=cache, use_cache=True
    ).last_hidden_state


def packed_hidden_states(model: Any, backbone: nn.Module, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """Hidden states (T, H) of documents that lie side by side in one row, each behind virtual tokens of its own."""
    documents = torch.split(ids_T, list(lengths))
    padded_BL = nn.utils.rnn.pad_sequence(list(documents), batch_first=True)
    hidden_BLH = hidden_states(model, backbone, padded_BL)
    return torch.cat([row_LH[:length] for row_LH, length in zip(hidden_BLH, lengths, strict=True)])


def lengths_of(position_ids_T: Tensor) -> list[int]:
    """Lengths of the documents of a packed row, whose positions restart at 0 with each."""
    starts = [*(position_ids_T == 0).nonzero()[:, 0].tolist(), position_ids_T.numel()]
    return [end - start for start, end in pairwise(starts)]
