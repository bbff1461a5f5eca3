"""Adapters as files: written by peft as peft reads them, read back by peft, and taken up again to go on training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.adapters.bases import WEIGHTS, Base, base_of, folders_of, name_base, tokenizer_digest, weights_digest
from stages.adapters.building import Task, add_adapter, parameters_of
from stages.adapters.config import AdapterSpec, QLora, settings_of
from stages.adapters.readme import readme
from stages.contract import Adapters, StageError

ENCODER = "prompt_encoder.safetensors"
"""The network that makes virtual tokens, beside peft's file, which holds only what it makes: without it no training could go on."""


def write_adapters(model: Any, names: Sequence[str], settings: Sequence[AdapterSpec], folder: Path, base: Base) -> Adapters:
    """Save the named adapters of a peft model, each loadable by peft: a single one in the folder itself, several in folders of their names."""
    from safetensors.torch import save_file

    model.save_pretrained(folder, selected_adapters=list(names), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, which is empty
    for name in names:
        encoder = model.prompt_encoder[name] if hasattr(model, "prompt_encoder") and name in model.prompt_encoder else None
        if encoder is not None and len(list(encoder.parameters())) > 1:
            save_file({key: p.detach().contiguous() for key, p in encoder.named_parameters()}, folder / name / ENCODER)
    if len(names) == 1 and names[0] != "default":
        for file in (folder / names[0]).iterdir():
            file.rename(folder / file.name)
        (folder / names[0]).rmdir()
    told = Adapters(
        names=list(names),
        settings=[one.model_dump(mode="json") for one in settings],
        base_digest=weights_digest(base.path),
        base_tokenizer_digest=tokenizer_digest(base.path),
    )
    name_base(list(folders_of(folder, told).values()), base)
    judges = model.peft_config[names[0]].task_type == "SEQ_CLS"
    if (page := readme(names, settings, base, judges=judges)) is not None:
        (folder / "README.md").write_text(page, encoding="utf-8")
    return told


def load_adapters(folder: Path, adapters: Adapters, load_base: Callable[[Path], Any], task: Task) -> Any:
    """The base with all of a folder's adapters on it, active and frozen. Raises DataError if the base is not the right one."""
    return with_adapters(load_base(base_of(folder, adapters).path), folders_of(folder, adapters), task)


def with_adapters(model: Any, folders: dict[str, Path], task: Task) -> Any:
    """A model with the adapters of these folders on it, active and frozen, by peft's own loader."""
    from peft import PeftConfig, PeftModel

    where = str(model.device)
    for number, (name, folder) in enumerate(folders.items()):
        config = PeftConfig.from_pretrained(str(folder))
        if config.task_type != task:
            # Text's adapter under a score head, or the other way round: what it keeps of heads is not this model's.
            config.task_type = None
        if number == 0:
            model = PeftModel.from_pretrained(model, str(folder), name, config=config, torch_device=where)
        else:
            model.load_adapter(str(folder), name, torch_device=where)
    if len(folders) > 1:
        model.base_model.set_adapter(list(folders), inference_mode=True)
    return model.requires_grad_(False).eval()


def take_up(model: Any, config: AdapterSpec, task: Task, name: str, folder: Path, *, seed: int = 0) -> Any:
    """An adapter that goes on: put onto the model as a new one is, then given the weights in `folder`. A new score head keeps its start.

    Raises:
        StageError: the folder holds weights of another adapter.
    """
    model = add_adapter(model, _without_start(config), task, seed=seed, name=name)
    put_weights(model, name, folder)
    return model


def put_weights(model: Any, name: str, folder: Path, *, heads: bool = True) -> None:
    """Give an adapter of a model the weights in a folder; score heads, without `heads`, are passed over. Raises StageError if it is another adapter's."""
    from safetensors.torch import load_file

    given = load_file(folder / WEIGHTS)
    if model.peft_config[name].is_prompt_learning:
        encoder = load_file(folder / ENCODER) if (folder / ENCODER).exists() else {"embedding.weight": given.pop("prompt_embeddings")}
        given = {**given, **{f"prompt_encoder.{key}": tensor for key, tensor in encoder.items()}}
        given.pop("prompt_embeddings", None)
    if not heads:
        given = {key: tensor for key, tensor in given.items() if not key.endswith("score.weight")}
    own = plain_parameters(model, name)
    missing = [key for key in own if key not in given and not key.endswith("score.weight")]
    if missing or any(key not in own for key in given) or any(own[key].shape != given[key].shape for key in given):
        raise StageError(f"{folder} holds another adapter than this stage's settings describe: it cannot go on")
    with torch.no_grad():
        for key, tensor in given.items():
            own[key].copy_(tensor)


def plain_parameters(model: Any, name: str) -> dict[str, Any]:
    """Parameters of an adapter by their names in peft's files."""
    return {_plain(key, name): parameter for key, parameter in parameters_of(model, name).items()}


def _plain(key: str, name: str) -> str:
    """A parameter as peft's files call it: without the adapter's name, and of DoRA's magnitudes without the module that holds them."""
    plain = key.replace(f".modules_to_save.{name}", "").replace(f".{name}.", ".").removesuffix(f".{name}")
    return plain.removesuffix(".weight") if plain.endswith("lora_magnitude_vector.weight") else plain


def _without_start(config: AdapterSpec) -> AdapterSpec:
    """Settings whose start does nothing of its own: the weights come from the file."""
    changes = {key: value for key, value in (("init", "zero"), ("text", None)) if key in type(config).model_fields}
    return config.model_copy(update=changes)


def earlier_settings(adapters: Adapters) -> list[AdapterSpec]:
    return [settings_of(one) for one in adapters.settings]


def quantised_in(adapters: Adapters) -> QLora | None:
    """The settings by which an artifact's base is held in four bits; None for one that is held whole."""
    return next((one for one in earlier_settings(adapters) if isinstance(one, QLora)), None)
