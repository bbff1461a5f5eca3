"""Which setting a stage runs with: every ZeRO level and offload, the cheapest that fits, and what to change where none does."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.estimate.machine import Machine
from pipeline.estimate.memory import Memory, Place, Setting
from pipeline.estimate.models import Model, players
from pipeline.estimate.quantities import size
from pipeline.estimate.stages import Stage, fits, most_rows, needed, share
from stages.adapters.config import Lora, QLora
from stages.contract import Hardware
from stages.core.config import StageConfig

MORE_NODES = (2, 4, 8, 16, 32, 64)
PLACES: dict[Place, int] = {"device": 0, "cpu": 1, "nvme": 3}
OFFLOADS: tuple[tuple[int, Place, Place], ...] = ((1, "cpu", "device"), (3, "cpu", "cpu"), (3, "nvme", "nvme"))
"""Lowest ZeRO level, place of the optimizer, place of the parameters."""
FOLDER = "FOLDER"
"""Stands where the recipe names no folder on a fast disk."""


@dataclass(frozen=True)
class Option:
    """A setting, and what it needs."""

    setting: Setting
    phase: str
    memory: Memory
    fits: bool
    impossible: str | None = None
    """Why the stage cannot run so at all."""
    folder: str = FOLDER
    """For what lies on nvme."""

    @property
    def cost(self) -> tuple[Any, ...]:
        """What is cheaper comes first: nothing offloaded (which waits for the bus) before offloaded, no recomputation (a third more arithmetic) before it,
        lower ZeRO levels (3 sends half as much again; Rajbhandari et al. 2020) before higher ones, larger passes before smaller ones."""
        s = self.setting
        return (PLACES[s.parameters] + PLACES[s.optimizer], s.checkpointing, s.zero, -(s.rows or float("inf")))

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among ZeRO levels and offloads, whatever its passes."""
        return (PLACES[self.setting.parameters] + PLACES[self.setting.optimizer], self.setting.zero)

    @property
    def on_disk(self) -> bool:
        return "nvme" in (self.setting.optimizer, self.setting.parameters)

    @property
    def overrides(self) -> list[str]:
        """The setting as words for the command line."""
        s = self.setting
        words = [f"hardware.zero={s.zero}"] + [f"hardware.micro_batch={s.rows}"] * (s.rows is not None)
        words += ["hardware.gradient_checkpointing=true"] * s.checkpointing
        words += [f"hardware.offload.optimizer={s.optimizer}"] * (s.optimizer != "device")
        words += [f"hardware.offload.parameters={s.parameters}"] * (s.parameters != "device")
        return words + [f"hardware.offload.folder={self.folder}"] * self.on_disk

    @property
    def offloaded(self) -> list[str]:
        """What does not lie on the device, and where it does."""
        s = self.setting
        return [f"{what} on {place}" for what, place in (("optimizer", s.optimizer), ("parameters", s.parameters)) if place != "device"]

    @property
    def level(self) -> str:
        """ZeRO level and offload, whatever the passes."""
        return " with ".join([f"ZeRO-{self.setting.zero}", *[" and ".join(self.offloaded)] * bool(self.offloaded)])

    @property
    def label(self) -> str:
        s = self.setting
        return ", ".join(
            [
                f"ZeRO-{s.zero}" if s.zero else "whole on each process" if s.processes > 1 else "one process",
                *self.offloaded,
                *["checkpointing"] * s.checkpointing,
                *[f"{s.rows} row{'s' if (s.rows or 0) > 1 else ''} a pass"] * (s.rows is not None),
            ]
        )


def options(stage: Stage, config: StageConfig, hardware: Hardware, machine: Machine) -> list[Option]:
    """For each ZeRO level and offload that the recipe leaves open the cheapest variant that fits, or else the smallest."""
    found = []
    for base in _bases(stage, config, hardware, machine):
        variants = [option_of(stage, config, setting, hardware, machine) for setting in _variants(stage, base, hardware)]
        good = [variant for variant in variants if variant.fits]
        found.append(min(good, key=lambda option: option.cost) if good else min(variants, key=lambda option: option.memory.total))
    return found


def choose(found: Sequence[Option]) -> Option | None:
    """The cheapest option that fits."""
    good = [option for option in found if option.fits]
    return min(good, key=lambda option: option.cost) if good else None


def processes(config: StageConfig, hardware: Hardware, machine: Machine) -> int:
    """Processes that share the stage."""
    if not config.is_shared:
        return 1
    return machine.nodes * (machine.gpus or hardware.processes or 1)


def _bases(stage: Stage, config: StageConfig, hardware: Hardware, machine: Machine) -> Iterator[Setting]:
    count = processes(config, hardware, machine)
    plain = Setting(count, checkpointing=hardware.gradient_checkpointing, device="cuda" if machine.gpus else "cpu")
    if not (stage.trained and config.is_shared):
        yield replace(plain, compute=machine.arithmetic(hardware.precision, 0))
        return
    for zero in range(4) if hardware.zero == "auto" else [hardware.zero]:
        for least, optimizer, parameters in _places(hardware, machine):
            if zero >= least:
                compute = machine.arithmetic(hardware.precision, zero)
                yield replace(plain, zero=zero, optimizer=optimizer, parameters=parameters, compute=compute)


def _places(hardware: Hardware, machine: Machine) -> Sequence[tuple[int, Place, Place]]:
    given = hardware.offload
    if given.optimizer or given.parameters:
        return [(3 if given.parameters else 1, given.optimizer or "device", given.parameters or "device")]
    return [(0, "device", "device"), *(OFFLOADS if machine.gpus else ())]


def _variants(stage: Stage, base: Setting, hardware: Hardware) -> Iterator[Setting]:
    """With and without recomputation, with as many rows as usual and with fewer, as far as the recipe leaves it open."""
    for checkpointing in [False] if not stage.trained else [True] if base.checkpointing else [False, True]:
        setting = replace(base, checkpointing=checkpointing)
        if hardware.micro_batch != "auto":
            yield replace(setting, rows=hardware.micro_batch)
            continue
        yield setting
        rows = most_rows(stage, setting) * (2 if stage.work.rows == "answers" else 1)
        while rows > 1:
            rows //= 2
            yield replace(setting, rows=rows)


def option_of(stage: Stage, config: StageConfig, setting: Setting, hardware: Hardware, machine: Machine) -> Option:
    """What the stage needs with this setting, whether it fits, and why not where it cannot be at all."""
    phase, memory = needed(stage, setting, machine)
    told = config.impossible(hardware.model_copy(update={"zero": setting.zero, "gradient_checkpointing": setting.checkpointing}))
    short = share(stage, setting.processes)
    wrong = str(short) if short else told[1] if told else None
    if setting.zero == 3 and any(player.quantised for player in stage.held):
        wrong = "ZeRO-3 cannot shard a base of four bits"
    if setting.zero == 3 and hardware.kernels == "compile":
        wrong = "under ZeRO-3 nothing can be compiled"
    if setting.zero and hardware.precision == "fp16":
        wrong = "fp16 is not possible under ZeRO"
    return Option(setting, phase, memory, wrong is None and fits(memory, machine), wrong, hardware.offload.folder or FOLDER)


def nearest(stage: Stage, config: StageConfig, models: Mapping[str, Model], hardware: Hardware, machine: Machine) -> str:
    """What is near a stage that does not fit, and does: more nodes, an adapter, or a device with more memory."""
    if short := share(stage, processes(config, hardware, machine)):
        return str(short)
    found = options(stage, config, hardware, machine)
    if wrong := next((option.impossible for option in found if option.impossible and fits(option.memory, machine)), None):
        return wrong
    for nodes in MORE_NODES if config.is_shared and machine.gpus else ():
        larger = replace(machine, nodes=machine.nodes * nodes)
        if choose(options(stage, config, hardware, larger)):
            return f"on {larger.nodes} nodes ({larger.nodes * larger.gpus} GPUs) it fits"
    for words, changed in _with_adapter(config):
        work = changed.workload()
        if work is not None:
            other = replace(stage, work=work, held=tuple(players(work, models)))
            if (option := choose(options(other, changed, hardware, machine))) is not None:
                return f"with {words} it fits: {option.label}, {size(option.memory.total)}"
    least = min(found, key=lambda option: option.memory.total)
    needed = least.memory.total / (machine.usable / machine.memory)
    return f"it needs devices of {size(needed)} at least ({least.label}; most while {least.phase})"


def _with_adapter(config: StageConfig) -> Iterator[tuple[str, StageConfig]]:
    """The same stage with an adapter instead of all weights, as far as its settings allow one."""
    given = type(config).model_fields
    if "adapter" not in given or getattr(config, "adapter", None) is not None:
        return
    for words, adapter in (("adapter: {kind: lora}", Lora()), ("adapter: {kind: qlora, hand_over: stack}", QLora(hand_over="stack"))):
        yield words, config.model_copy(update={"adapter": adapter})
        if "players" in given:
            yield f"{words} and players: shared-base", config.model_copy(update={"adapter": adapter, "players": "shared-base"})
