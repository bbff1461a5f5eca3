"""What a run does where `hardware.zero` is left open: what `pipeline plan` would choose for the GPUs that are here.

Where their memory or a model's size cannot be told it is what `pipeline.launch.resolved` says: ZeRO-2 where several GPUs train what can be sharded.
"""

import os
import shutil
import subprocess
from importlib.util import find_spec

from pipeline.errors import RecipeError
from pipeline.estimate.choosing import Option, choose, nearest, options
from pipeline.estimate.machine import MFU, Machine, main_memory
from pipeline.estimate.models import Model, Models, players
from pipeline.estimate.quantities import size
from pipeline.estimate.stages import Stage, share
from pipeline.estimate.telling import reasons
from pipeline.launch import cuda_devices, resolved
from pipeline.plan import Plan, Step
from stages.contract import Hardware, Offload

ASK = ("nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits")


def decided(plan: Plan, step: Step) -> tuple[Hardware, str]:
    """Hardware of a stage with all decided that its processes have to be started with; and what was chosen and why, where something was."""
    asked, devices = plan.recipe.hardware, cuda_devices(os.environ)
    usual = resolved(asked, devices, step.config)
    if asked.zero != "auto" or not usual.gpus or not step.config.is_shared:
        return usual, ""
    held, fewer = _kept(step, asked), ""
    usual = resolved(held, devices, step.config)
    try:
        stage, models = _sizes(plan, step)
        if asked.gpus == "auto" and (most := _most(stage, usual)) != usual.gpus:
            usual = resolved(held.model_copy(update={"gpus": most}), devices, step.config)
            fewer = f"{most} of {devices} GPUs, since a step cannot be shared by more evenly; "
        machine = _machine(usual)
    except RecipeError as error:
        return usual, f"{fewer}ZeRO-{usual.zero} without a plan: {error}"
    planned = options(stage, step.config, held, machine)
    found = [option for option in planned if _lacks(option, machine) is None]
    chosen = choose(found)
    if chosen is None:
        best = choose(planned)
        why = _lacks(best, machine) if best else nearest(stage, step.config, models, held, machine)
        return usual, f"{fewer}ZeRO-{usual.zero}, though it may not fit: {why}"
    return _with(usual, chosen), fewer + _told(found, chosen, machine)


def _machine(hardware: Hardware) -> Machine:
    """The GPUs of this node, as small as the smallest of them. Raises RecipeError where the driver's own program is not there or does not know."""
    if shutil.which(ASK[0]) is None:
        raise RecipeError(f"there is no {ASK[0]} to tell how much memory the GPUs have")
    try:
        answer = subprocess.run(ASK, capture_output=True, text=True, timeout=20, check=True).stdout
        found = [(int(memory) << 20, float(capability)) for memory, capability in (line.split(",") for line in answer.splitlines())]
        memory, capability = (min(values) for values in zip(*found, strict=True))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise RecipeError(f"{ASK[0]} does not tell how much memory the GPUs have") from error
    return Machine(int(hardware.gpus), memory, hardware.nodes or 1, mfu=MFU, bf16=capability >= 8, fp16=capability >= 7)


def _sizes(plan: Plan, step: Step) -> tuple[Stage, dict[str, Model]]:
    """The stage and the models that it takes. Raises RecipeError where a size cannot be told."""
    models, taken = Models(plan), dict[str, Model]()
    for each in plan.steps:
        taken = models.of_step(each)
        if each.name == step.name:
            break
    work = step.config.workload()
    if work is None:
        raise RecipeError(f"a stage of kind {step.kind} does not say what it computes")
    return Stage(step.name, step.kind, work, tuple(players(work, taken))), taken


def _most(stage: Stage, hardware: Hardware) -> int:
    """As many of the GPUs as can share a step of the stage."""
    gpus, nodes = int(hardware.gpus), hardware.nodes or 1
    return next((count for count in range(gpus, 0, -1) if share(stage, count * nodes) is None), gpus)


def _kept(step: Step, asked: Hardware) -> Hardware:
    """A stage that goes on keeps the ZeRO level of its checkpoint, which fits no other."""
    ground = step.folder.ground()
    return asked if ground is None else asked.model_copy(update={"zero": ground.get("zero", 0)})


def _lacks(option: Option, machine: Machine) -> str | None:
    """What this machine lacks of what the plan takes for granted: DeepSpeed, a folder for `nvme`, main memory; None if nothing."""
    if option.setting.zero and not find_spec("deepspeed"):
        return f"{option.label} does, and DeepSpeed is not installed: pip install 'recipe-pipeline[deepspeed]'"
    if option.on_disk:
        return f"{option.label} does, if it is asked for: {' '.join(option.overrides)}"
    needed, there = option.memory.host * machine.gpus + option.memory.node, main_memory()
    if needed > there:
        return f"{option.label} does on the GPUs, and needs {size(needed)} of main memory, of which there are {size(there)}"
    return None


def _with(hardware: Hardware, chosen: Option) -> Hardware:
    setting = chosen.setting
    offload = {"optimizer": setting.optimizer, "parameters": setting.parameters}
    update = {
        "zero": setting.zero,
        "offload": Offload.model_validate({name: place for name, place in offload.items() if place != "device"}),
        "micro_batch": setting.rows or "auto",
        "gradient_checkpointing": setting.checkpointing,
    }
    return hardware.model_copy(update=update)


def _told(found: list[Option], chosen: Option, machine: Machine) -> str:
    why = reasons(found, chosen)
    needs = f"{size(chosen.memory.total)} of {size(machine.usable)} on each GPU"
    return f"{chosen.label}: {needs} by the plan" + (f"; {why}" if why else "")
