"""What this machine lacks of what a recipe's `hardware` asks for. A run cannot start without it; a plan can be looked at anywhere."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

from pipeline.errors import Problem
from pipeline.launch import cuda_devices
from pipeline.recipe import Recipe


def lacks_here(recipe: Recipe) -> list[Problem]:
    """Everything, each with its line."""
    return [
        Problem(recipe.document.place(("hardware", field)), f"hardware.{field}", f"found {getattr(recipe.hardware, field)}, {what}")
        for field, what in _lacking(recipe)
    ]


def _lacking(recipe: Recipe) -> Iterator[tuple[str, str]]:
    hardware = recipe.hardware
    if hardware.zero not in (0, "auto") and find_spec("deepspeed") is None:
        yield "zero", "which DeepSpeed does, and it is not installed: pip install 'recipe-pipeline[deepspeed]'"
    if (hardware.nodes or 1) > 1 and not hardware.hosts:
        yield "nodes", "and hardware.hosts names none: name them there, or let Slurm choose them with --slurm"
    if hardware.gpus != "auto" and hardware.gpus > (there := cuda_devices(os.environ)):
        yield "gpus", f"and stages would see {there} CUDA devices here"
