"""Reward models that are adapters with a score head of their own on a base which others use too: no second copy of its weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.adapters.bases import WEIGHTS, adapters_in, folders_of, weights_digest
from stages.adapters.config import AdapterSpec, LowRank, QLora
from stages.adapters.files import earlier_settings, put_weights, quantised_in
from stages.adapters.prompts import has_prompt, hidden_states
from stages.adapters.start import Start
from stages.adapters.switching import active, unchanged
from stages.contract import Adapters
from stages.core.config import free_name


class Judge(nn.Module):
    """What scores: adapters of a shared model, by name, and a head. Only the head is its own."""

    def __init__(self, model: Any, names: list[str], head_1H: Tensor) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, where torch does not look: the shared model is no part of this one
        self.names = names
        self.score = nn.Linear(head_1H.size(1), 1, bias=False)
        self.score.weight = nn.Parameter(head_1H.clone(), requires_grad=False)

    def read(self, ids_BL: Tensor) -> Tensor:
        """Last hidden states (B, L, H) as the judge's adapters make them."""
        (model,) = self._model
        with active(model, self.names):
            return hidden_states(model, model.get_decoder(), ids_BL)


def judge_on(start: Start, folder: Path) -> Judge | None:
    """The reward model in a folder as adapters on the policy's own base.

    None where it cannot be: it is a whole model, keeps layers of its own beside its head, is of another family, or on another base or other bits of it.

    Adapters that both have (an earlier stage's, in a stack) are there once.
    """
    found, model = adapters_in(folder), start.model
    if found is None or start.base is None or not hasattr(model, "peft_config") or has_prompt(model):
        return None
    if weights_digest(start.base.path) != found.base_digest or not _alike(start.own, found):
        return None
    from peft import PeftConfig

    folders = folders_of(folder, found)
    configs = {name: PeftConfig.from_pretrained(str(place)) for name, place in folders.items()}
    if any(config.peft_type != model.peft_type for config in configs.values()):
        return None
    names = []
    for name, config in configs.items():
        if name in start.earlier and _holds(model, name, folders[name]):
            names.append(name)
            continue
        # Two judges may lie in folders of one name, and one judge may be asked twice.
        own = free_name(f"{folder.parent.name.replace('.', '_')}_{name}", 2, model.peft_config)
        config.task_type, config.modules_to_save = None, None  # the head is held apart: a language model has no place for it
        with unchanged(model):
            model.add_adapter(own, config)
            put_weights(model, own, folders[name], heads=False)
        names.append(own)
    head = next(tensor for key, tensor in load_file(folders[found.names[-1]] / WEIGHTS).items() if key.endswith("score.weight"))
    return Judge(model, names, head).to(model.device)


def _alike(own: AdapterSpec | None, found: Adapters) -> bool:
    """Whether a judge's adapters need nothing of the base that the policy's does not have: four bits made alike, and no layer kept as a whole."""
    if any(isinstance(one, LowRank) and one.modules_to_save for one in earlier_settings(found)):
        return False
    theirs, ours = quantised_in(found), own if isinstance(own, QLora) else None
    return (theirs and theirs.double) == (ours and ours.double)


def _holds(model: Any, name: str, folder: Path) -> bool:
    """Whether an adapter of a model has the weights in a folder."""
    from stages.adapters.files import plain_parameters

    given, own = load_file(folder / WEIGHTS), plain_parameters(model, name)
    return given.keys() == own.keys() and all(torch.equal(own[key].cpu(), given[key]) for key in given)
