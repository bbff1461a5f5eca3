"""What a Trainer is told of a stage: its arguments, and how many steps and forward passes there are."""

import os
from typing import Any

import torch

from stages.contract import Hardware, Job, StageError
from stages.core.config import Optimizer
from stages.core.models import Precision, device_of
from stages.core.rows import Shape
from stages.core.seeds import seed_for
from stages.core.workload import AUTO_TOKENS, Workload, divisor, unshared
from stages.core.zero import engine_config, zero_stage

LOG_LINES = 200
"""Lines of metrics.jsonl that a stage aims for."""


def check_shared(work: Workload, processes: int, context: int | None = None) -> None:
    """Raises StageError where so many processes cannot share a step, as `pipeline check` does with the recipe's line where the recipe tells."""
    for found in unshared(work, processes, context):
        raise StageError(f"{found.field}: {found}")


def launched() -> int:
    """Processes that share the stage."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shape_of_run(hardware: Hardware, work: Workload, *, capacity: int, rows: int | None = None) -> Shape:
    """Steps and forward passes for a budget of packed rows of `capacity` tokens, or of the tokens that the settings say. Steps do not depend on hardware;
    micro-batches do.

    Raises StageError if a step's rows cannot be shared evenly by the processes.
    """
    processes, per_step = launched(), work.rows_in_step(capacity)
    check_shared(work, processes, capacity)
    steps = max(1, -(-rows // per_step) if rows is not None else (work.tokens or 0) // capacity // per_step)
    automatic = max(1, AUTO_TOKENS[device_of(hardware).type] // capacity)
    most = automatic if hardware.micro_batch == "auto" else hardware.micro_batch
    micro = divisor(per_step // processes, most)
    return Shape(steps, per_step, micro, per_step // processes // micro)


def arguments(job: Job, optimizer: Optimizer, *, steps: int, micro_batch: int, accumulation: int, precision: Precision) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments, and of TRL's configurations that derive from it (their defaults are not ours)."""
    on_cpu = device_of(job.hardware).type == "cpu"
    sharded = zero_stage(job.hardware) > 0
    cut = {"micro_batch": micro_batch, "accumulation": accumulation}
    return {
        "deepspeed": engine_config(job.hardware, clip=optimizer.clip, dtype=precision.dtype, **cut) if sharded else None,
        "output_dir": str(job.folder / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": optimizer.learning_rate,
        "max_grad_norm": optimizer.clip,
        "seed": seed_for(job.seed, "trainer") % 2**32,
        "use_cpu": on_cpu,
        "bf16": precision.dtype == torch.bfloat16 and not sharded,  # DeepSpeed has its own autocast, and `bf16` would make it store bf16
        "fp16": precision.dtype == torch.float16,
        "activation_checkpointing": job.hardware.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": job.checkpoints.every_steps or max(1, -(-steps // 5)),
        "logging_steps": max(1, steps // LOG_LINES),
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
    }
