"""Stages that the processes which a recipe names cannot share, told before anything starts; the rule is `stages.core.workload.unshared`.

Nothing is told where the recipe leaves the number open (`gpus: auto` on a machine with GPUs), where a row's length is not known yet (of a Hub model, or
with virtual tokens, which take places of the context), and of what depends on data: the stage itself looks at those as it starts.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.errors import Problem
from pipeline.handoffs import contexts_of
from pipeline.launch import cuda_devices
from pipeline.recipe import Recipe
from stages.contract import Hardware
from stages.core.config import StageConfig
from stages.core.workload import Unshared, unshared


@dataclass(frozen=True)
class Asked:
    """Processes that are asked for."""

    key: str
    """Of `hardware`, that says how many there are on each node."""
    count: int
    """On each node."""
    nodes: int = 1

    @property
    def told(self) -> str:
        where = f" on each of {self.nodes} nodes" if self.nodes > 1 else ""
        return f"hardware.{self.key}: {self.count}{where}"


def asked(hardware: Hardware) -> Asked | None:
    """What the recipe asks for; None where it depends on the GPUs that are there. Names of nodes in a file stand for `hardware.nodes`, if at all."""
    nodes = (0 if isinstance(hardware.hosts, str) else len(hardware.hosts)) or hardware.nodes or 1
    if hardware.gpus == "auto" and cuda_devices(os.environ):
        return None
    if hardware.gpus and hardware.gpus != "auto":
        return Asked("gpus", hardware.gpus, nodes)
    return Asked("processes", hardware.processes or 1, nodes)


def share_problems(recipe: Recipe, names: Collection[str], given: Asked | None = None) -> list[Problem]:
    """All that keeps these stages from being shared by the processes that are asked for, or `given`, each with its line and what works."""
    want = given or asked(recipe.hardware)
    if want is None:
        return []
    shared = {name: config for name, config in recipe.stages.items() if name in names and config.is_shared}
    contexts = contexts_of(recipe) | {name: {} for name in _prompted(recipe)}
    found = {name: _of_stage(config, want.count * want.nodes, contexts[name]) for name, config in shared.items()}
    if not any(found.values()):
        return []
    way = _fewer(shared, want, contexts)
    return [recipe.problem(name, each.field, _told(shared[name], each, want, way)) for name, all_of in found.items() for each in all_of]


def _prompted(recipe: Recipe) -> set[str]:
    """Stages whose model has virtual tokens, of their own adapter or of a stage before."""
    found: set[str] = set()
    for name, config in recipe.stages.items():
        own = getattr(getattr(config, "adapter", None), "family", None) == "prompt"
        if own or any(reference.value in found for reference in recipe.references[name]):
            found.add(name)
    return found


def _of_stage(config: StageConfig, processes: int, contexts: Mapping[str, int | None]) -> list[Unshared]:
    work, context = config.workload(), config.context_left(contexts)
    if work is None:
        return []
    return unshared(work, processes, context and min(work.longest or context, context))


def _fewer(stages: Mapping[str, StageConfig], want: Asked, contexts: Mapping[str, Mapping[str, int | None]]) -> str:
    """The most processes that all of these stages can share: they run with one number."""
    for count in range(want.count - 1, 0, -1):
        if not any(_of_stage(config, count * want.nodes, contexts[name]) for name, config in stages.items()):
            return f"set hardware.{want.key} to {count}, which changes no result"
    return "take fewer nodes, which changes no result"


def _told(config: StageConfig, found: Unshared, want: Asked, way: str) -> str:
    value = getattr(config, found.field)
    return f"found {value}, and {found.why} ({want.told}): {way}, or {found.field} to {found.larger}"
