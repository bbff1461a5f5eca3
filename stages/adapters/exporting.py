"""Writes whole models and combined adapters from what stages left."""

from pathlib import Path
from typing import Any

import torch

from data.errors import DataError
from stages.adapters.bases import Base, adapters_in, base_of
from stages.adapters.combining import COMBINED, alike, combine, compared, loaded_together, names_of
from stages.adapters.config import AdapterSpec, Lora, QLora, settings_of
from stages.adapters.files import load_adapters, quantised_in
from stages.adapters.prompts import has_prompt
from stages.adapters.start import Kept
from stages.adapters.tasks import Comparison, Done, Export
from stages.contract import Artifact, Hardware
from stages.core.artifacts import save_artifact
from stages.core.models import load_base, load_tokenizer

CPU = Hardware(gpus=0)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(task: Export) -> Done:
    """Carry out an export. Raises DataError where the parts do not allow it."""
    says = artifact_of(task.parts[0].folder)
    kind: Any = says.kind
    if kind not in ("causal-lm", "reward-model"):
        raise DataError(f"'{task.parts[0].name}' is a {kind}; models and adapters can be exported")
    model, settings, base = _combined(task, kind) if len(task.parts) > 1 else _single(task, kind)
    kept = None
    if not task.merge and settings:
        kept = Kept([COMBINED] if len(task.parts) > 1 else list(_held(task).names), settings, base)
    elif not task.merge:
        raise DataError(f"'{task.parts[0].name}' is a whole model already; export it with --merge")
    written = save_artifact(
        model,
        load_tokenizer(task.parts[0].folder),
        task.out,
        kind=kind,
        kept=kept,
        reward_mean=says.reward_mean if len(task.parts) == 1 else None,
        reward_std=says.reward_std if len(task.parts) == 1 else None,
        dtype=DTYPES[task.dtype],
        shard_size=task.shard_size,
    )
    return Done(sentences=(f"reloaded as a stranger would, its outputs differ by {written.reload_difference:.2g}",))


def compare(task: Comparison) -> Done:
    kind = "SEQ_CLS" if artifact_of(task.parts[0].folder).kind == "reward-model" else "CAUSAL_LM"
    columns, rows = compared(task.parts, lambda parts, held: loaded_together(parts, held, _loader(kind), kind))
    return Done(columns=columns, rows=tuple(rows))


def _single(task: Export, kind: str) -> tuple[Any, list[AdapterSpec], Any]:
    part, own = task.parts[0], "SEQ_CLS" if kind == "reward-model" else "CAUSAL_LM"
    held = adapters_in(part.folder)
    if held is None:
        return _loader(own)(part.folder), [], None
    model: Any = load_adapters(part.folder, held, _loader(own, quantised_in(held)), own)  # type: ignore[arg-type]
    if task.merge and has_prompt(model):
        raise DataError(
            f"'{part.name}' is a {settings_of(held.settings[-1]).label} adapter: virtual tokens are no weights and cannot be merged"
        )
    return model, [settings_of(one) for one in held.settings], _base(part.folder, held, task.out)


def _combined(task: Export, kind: str) -> tuple[Any, list[AdapterSpec], Any]:
    if kind != "causal-lm":
        raise DataError("reward models keep score heads of their own, which cannot be added; combine adapters of language models")
    held = alike(task.parts)
    model = loaded_together(task.parts, held, _loader("CAUSAL_LM"), "CAUSAL_LM")
    weights = [part.weight for part in task.parts]
    model = combine(model, names_of(task.parts), weights, task.combine, task.density, task.rank)
    config = model.peft_config[COMBINED]
    settings = Lora(rank=config.r, alpha=config.lora_alpha, targets=tuple(sorted(config.target_modules)), hand_over="stack")
    return model, [settings], _base(task.parts[0].folder, held[0], task.out)


def _base(folder: Path, held: Any, out: Path) -> Base:
    """An export lies anywhere, so that its base is named by where it is, or by its name on the Hub."""
    base = base_of(folder, held)
    return base if base.revision is not None else Base(base.path, str(base.path.resolve()))


def _held(task: Export) -> Any:
    return adapters_in(task.parts[0].folder)


def _loader(kind: str, quantised: QLora | None = None) -> Any:
    """Loads bases as the adapters on them were trained: those of QLoRA in four bits, so that a merge takes what these read."""
    return lambda folder: load_base(folder, CPU, kind, quantised)  # type: ignore[arg-type]


def artifact_of(folder: Path) -> Artifact:
    file = folder / "artifact.json"
    if not file.is_file():
        raise DataError(f"{folder} holds no artifact")
    return Artifact.model_validate_json(file.read_bytes())
