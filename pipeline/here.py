"""What this machine lacks of what a recipe asks for. A run cannot start without it; the recipe of a run elsewhere can be checked and planned anywhere."""

import os
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from pipeline.errors import Problem
from pipeline.launch import cuda_devices
from pipeline.recipe import Recipe
from pipeline.shares import Asked, share_problems
from stages.adapters.config import QLora


def lacks_here(recipe: Recipe, stages: Collection[str] | None = None) -> list[Problem]:
    """Everything, each with its line. `stages` are those that are to work; all of them if left out."""
    document = recipe.document
    hardware = [
        Problem(document.place(("hardware", *field.split("."))), f"hardware.{field}", f"found {attrgetter(field)(recipe.hardware)}, {what}")
        for field, what in _hardware(recipe)
    ]
    trackers = [
        Problem(document.place(("track", number)), f"track.{number}", f"{name} is not installed: pip install 'recipe-pipeline[{name}]'")
        for number, name in enumerate(recipe.track)
        if find_spec(name) is None
    ]
    works = list(recipe.stages) if stages is None else stages
    return [*hardware, *trackers, *_four_bits(recipe, works), *_shares(recipe, works)]


def _shares(recipe: Recipe, stages: Collection[str]) -> list[Problem]:
    """What the GPUs that are here cannot share, where a run would take all of them."""
    hardware = recipe.hardware
    if hardware.gpus != "auto" or hardware.zero == "auto" or not (there := cuda_devices(os.environ)):
        return []
    return share_problems(recipe, stages, Asked("gpus", there, len(hardware.hosts) or 1))


def _hardware(recipe: Recipe) -> Iterator[tuple[str, str]]:
    hardware = recipe.hardware
    if hardware.zero not in (0, "auto") and find_spec("deepspeed") is None:
        yield "zero", "which DeepSpeed does, and it is not installed: pip install 'recipe-pipeline[deepspeed]'"
    if (hardware.nodes or 1) > 1 and not hardware.hosts:
        yield "nodes", "and hardware.hosts names none: name them there, or let Slurm choose them with --slurm"
    if (folder := hardware.offload.folder) is not None and not Path(folder).is_dir():
        yield "offload.folder", "and there is no such folder here: nvme wants one on a fast disk of each node"
    if hardware.gpus != "auto" and hardware.gpus > (there := cuda_devices(os.environ)):
        yield "gpus", f"and stages would see {there} CUDA devices here"


def _four_bits(recipe: Recipe, stages: Collection[str]) -> Iterator[Problem]:
    lacks = "qlora needs bitsandbytes, which is not installed: pip install 'recipe-pipeline[qlora]'; or use kind: lora"
    asking = [name for name in stages if isinstance(getattr(recipe.stages[name], "adapter", None), QLora)]
    if asking and find_spec("bitsandbytes") is None:
        yield from (recipe.problem(name, "adapter.kind", lacks) for name in asking)
