"""What `python -m stages.adapters task.json` is told and says: exporting and combining what stages left. Torch-free."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from data.config import Spec

Combination = Literal["linear", "ties", "dare-linear", "dare-ties"]
Dtype = Literal["fp32", "bf16", "fp16"]


class Part(Spec):
    """One artifact, and its weight beside others."""

    name: str
    folder: Path
    """Absolute."""
    weight: float = 1.0


class Task(Spec):
    """What both kinds of task are told."""

    parts: tuple[Part, ...] = Field(min_length=1)
    trusted: tuple[Path, ...] = ()
    """Folders whose models' own code may run, as the recipe says."""


class Export(Task):
    """Write one artifact from one or several."""

    out: Path
    """Folder to write; absolute, and not there yet."""
    merge: bool = True
    """A whole model; else an adapter on its base."""
    combine: Combination = "linear"
    """How several adapters become one: their updates' weighted sum, or TIES (Yadav et al. 2023), or DARE (Yu et al. 2024) with either."""
    density: float = Field(0.5, gt=0, le=1)
    """Share of each update that TIES and DARE keep."""
    rank: int | None = Field(None, gt=0)
    """Of what TIES or DARE give, which is of no low rank and is cut to the nearest of it; the sum of the parts' if left out."""
    dtype: Dtype = "fp32"
    shard_size: str = "5GB"
    """Largest weights file."""


class Comparison(Task):
    """Set adapters side by side."""


class Done(Spec):
    """The answer, on the last line of standard output."""

    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | float, ...], ...] = ()
