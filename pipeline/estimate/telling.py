"""Estimates as text for people, and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.estimate.choosing import FOLDER
from pipeline.estimate.machine import MARGIN, Machine
from pipeline.estimate.memory import PARTS
from pipeline.estimate.quantities import amount, count, duration, money, size, unit_of
from pipeline.show import columns

if TYPE_CHECKING:
    from pipeline.estimate.choosing import Option
    from pipeline.estimate.command import Estimate


def estimate_text(found: Sequence["Estimate"], machine: Machine) -> str:
    """A summary, and for each stage the memory of every option."""
    head = [f"{machine.label}, {MARGIN:.0%} of each left free" if machine.gpus else machine.label]
    if machine.gpu:
        head.append(f"{machine.mfu:.0%} of the peak reached ({machine.gpu.source})")
    parts = ["; ".join(head), columns([HEAD, *map(_row, found)])]
    parts += [_details(each) for each in found]
    total = [each.hours for each in found]
    if all(time is not None for time in total) and len(total) > 1:
        price = sum(each.price or 0 for each in found)
        rate = f"{machine.price or 0:g} per {'GPU' if machine.gpus else 'machine'} and hour"
        parts.append(
            f"in all {duration(sum(time or 0 for time in total))}" + (f", {money(price)} at {rate}" if machine.price is not None else "")
        )
    return "\n\n".join(parts)


HEAD = ("stage", "kind", "parameters", "trained", "tokens", "FLOPs", "time", "price", "disk", "memory", "setting")


def _row(each: "Estimate") -> tuple[str, ...]:
    stage = each.stage
    memory = size(each.chosen.memory.total) if each.chosen else "" if each.unshared else "does not fit"
    return (
        stage.name,
        stage.kind,
        count(stage.parameters),
        count(stage.trained),
        count(stage.tokens),
        f"{each.flops:.2e}" if each.flops else "?",
        duration(each.hours) if each.hours is not None else "?",
        money(each.price) if each.price is not None else "",
        size(each.disk.total),
        memory,
        each.chosen.label if each.chosen else each.near,
    )


def _details(each: "Estimate") -> str:
    """The options of one stage, and why one of them was chosen; none where it cannot be shared by so many processes at all."""
    players = ", ".join(
        f"{player.player.name} {count(player.parameters)}" + (f" ({count(player.trained)} trained)" if player.trained else "")
        for player in each.stage.held
    )
    if each.unshared:
        return f"{each.stage.name}: {players}\n  {each.near}{_measured(each)}"
    rows: list[tuple[str, ...]] = [("", *PARTS, "in all", "most while", "main memory", "")]
    factor, unit = unit_of(max(option.memory.total for option in each.options))
    for option in each.options:
        cells = [amount(getattr(option.memory, part) / factor) for part in PARTS]
        mark = "<- chosen" if option is each.chosen else "" if option.fits else option.impossible or "does not fit"
        host = " + ".join(
            f"{amount(held / factor)}{whose}" for held, whose in ((option.memory.host, ""), (option.memory.node, " a node")) if held
        )
        rows.append((f"  {option.label}", *cells, amount(option.memory.total / factor), option.phase, host, mark))
    return f"{each.stage.name}: {players}; {unit} of one process\n{columns(rows)}\n{why(each)}{_measured(each)}"


def _measured(each: "Estimate") -> str:
    found = each.measured
    if found is None or isinstance(found, str):
        return f"\n  {found}" if found else ""
    rate = f"{found.tokens:,.0f} tokens a second, " if found.tokens is not None else ""
    return (
        f"\n  measured on {found.processes} process{'es' if found.processes > 1 else ''} of this machine: {rate}{found.seconds:.3g} s a step, "
        f"{size(found.memory)} held at most; the time above is reckoned from it"
    )


def why(each: "Estimate") -> str:
    """In one line: what was chosen and why, or what would fit."""
    if each.chosen is None:
        return f"  does not fit: {each.near}"
    where = ", FOLDER being one on a fast disk of each node" if each.chosen.on_disk and each.chosen.folder == FOLDER else ""
    return f"  chosen: {' '.join(each.chosen.overrides)}{where}; {reasons(each.options, each.chosen) or 'nothing is cheaper'}"


def reasons(options: Sequence["Option"], chosen: "Option") -> str:
    """Why none of those was taken that come before the chosen one; empty where none does."""
    before = [option for option in options if option.rank < chosen.rank]
    return "; ".join(_against(option) for option in before[:4])


def _against(option: "Option") -> str:
    """Why an option that comes before the chosen one was not taken."""
    if option.impossible is not None:
        return f"{option.level} cannot be"
    return f"{option.level} fits only by recomputing" if option.fits else f"{option.level} needs {size(option.memory.total)}"


def estimate_json(found: Sequence["Estimate"], machine: Machine) -> dict[str, Any]:
    return {"machine": asdict(machine), "stages": [_stage_json(each) for each in found]}


def _stage_json(each: "Estimate") -> dict[str, Any]:
    stage = each.stage
    return {
        "name": stage.name,
        "kind": stage.kind,
        "parameters": stage.parameters,
        "trained": stage.trained,
        "players": [{"name": p.player.name, "parameters": p.parameters, "trained": p.trained} for p in stage.held],
        "tokens": stage.tokens,
        "flops": each.flops,
        "hours": each.hours,
        "hours_writing": each.writing,
        "price": each.price,
        "disk": each.disk.total,
        "chosen": _option_json(each.chosen) if each.chosen else None,
        "nearest": each.near,
        "measured": asdict(each.measured) if each.measured is not None and not isinstance(each.measured, str) else each.measured,
        "options": [_option_json(option) for option in each.options],
    }


def _option_json(option: "Option") -> dict[str, Any]:
    memory = option.memory
    return {
        "setting": asdict(option.setting),
        "overrides": option.overrides,
        "phase": option.phase,
        "fits": option.fits,
        "impossible": option.impossible,
        "memory": {part: getattr(memory, part) for part in PARTS} | {"total": memory.total, "host": memory.host, "node": memory.node},
    }
