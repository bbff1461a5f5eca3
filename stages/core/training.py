"""What every stage on transformers' Trainer shares: its arguments, and a mixin that makes it stop, save and resume as this project promises.

    class Training(StageTraining, Trainer): ...
    trainer = Training(model, TrainingArguments(**arguments(...)), train_dataset=rows, data_collator=collate, job=job, ...)
    train(trainer)

Trainer keeps the loop, accumulation, mixed precision and the distributed engines. The mixin replaces what measured wrong: checkpoints that a
kill leaves half-written, NaN that is logged as 0, a signal that ends in success, weight averages of averages over micro-batches.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate.utils.other
import torch
from transformers import TrainerCallback

from stages.contract import Hardware, Job, StageError
from stages.core import checkpoints
from stages.core.config import Optimizer
from stages.core.interrupt import Interrupted
from stages.core.metrics import Metrics
from stages.core.models import Precision, device_of
from stages.core.rows import Shape, divisor
from stages.core.schedules import adamw, learning_rate_factor
from stages.core.seeds import seed_for
from stages.core.trackers import Trackers

AUTO_TOKENS = {"cpu": 4_096, "cuda": 32_768}
"""Tokens of a forward pass where the recipe leaves it open. On a CPU larger passes leave the caches and are slower."""
if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() not in ("1", "true"):
    # Where DeepSpeed is installed, accelerate imports it to ask whether a model is one of its engines: 3 seconds that only ZeRO needs.
    accelerate.utils.other.is_deepspeed_available = lambda: False

LOG_LINES = 200
"""Lines of metrics.jsonl that a stage aims for."""


def shape_of_run(hardware: Hardware, *, batch_tokens: int, capacity: int, tokens: int | None = None, rows: int | None = None) -> Shape:
    """Steps and forward passes for a budget of `tokens`, or of `rows`. Steps do not depend on hardware; micro-batches do.

    Raises StageError if a step's rows cannot be shared evenly by the processes.
    """
    per_step = max(1, batch_tokens // capacity)
    budget = rows if rows is not None else (tokens or 0) // capacity
    steps = max(1, -(-budget // per_step) if rows is not None else budget // per_step)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if per_step % processes:
        raise StageError(f"a step of {per_step} rows of {capacity} tokens cannot be shared by {processes} processes: change batch_tokens")
    automatic = max(1, AUTO_TOKENS[device_of(hardware).type] // capacity)
    most = automatic if hardware.micro_batch == "auto" else hardware.micro_batch
    micro = divisor(per_step // processes, most)
    return Shape(steps, per_step, micro, per_step // processes // micro)


def arguments(job: Job, optimizer: Optimizer, *, steps: int, micro_batch: int, accumulation: int, precision: Precision) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments, and of TRL's configurations that derive from it (their defaults are not ours)."""
    on_cpu = device_of(job.hardware).type == "cpu"
    return {
        "output_dir": str(job.folder / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": optimizer.learning_rate,
        "max_grad_norm": optimizer.clip,
        "seed": seed_for(job.seed, "trainer") % 2**32,
        "use_cpu": on_cpu,
        "bf16": precision.dtype == torch.bfloat16,
        "fp16": False,
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


if TYPE_CHECKING:
    from transformers import Trainer as _Below
else:
    _Below = object


class StageTraining(_Below):  # type: ignore[misc]
    """Mixin before a Trainer class. A subclass says what it learns from a micro-batch in two methods: `summed_loss` and `items`."""

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of one micro-batch, summed over its items (learned tokens, or pairs); a scalar with a graph."""
        raise NotImplementedError

    def items(self, batch: dict[str, Any]) -> float:
        """Items of one micro-batch, or their summed weights; the step's sum of losses is divided by the step's items."""
        raise NotImplementedError

    def tokens(self, batch: dict[str, Any]) -> int:
        """Tokens of one micro-batch, for the record."""
        return int(batch["input_ids"].numel())

    def __init__(self, *args: Any, job: Job, settings: Optimizer, stop: Callable[[], bool], **kwargs: Any) -> None:
        self._job, self._settings = job, settings
        self._staging: Path | None = None
        self._seconds_logged, self._tokens_logged = 0.0, 0
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks = [
            callback
            for callback in self.callback_handler.callbacks
            if type(callback).__name__ not in ("PrinterCallback", "ProgressCallback")
        ]
        writes = self.is_world_process_zero()
        self.metrics = Metrics(job.folder, writes=writes, trackers=Trackers(job, writes=writes))
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the whole step's count: Trainer must not divide again
        self.add_callback(_Boundary(job.seed, self.args.process_index, stop, self._agree))

    # ---- loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], torch.Tensor]:
        """The micro-batches of one optimizer step on this process, and the items of the step on all processes."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        counts = torch.tensor([sum(map(self.items, batches)), sum(map(self.tokens, batches))], device=device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.state.num_input_tokens_seen += int(counts[1])
        return batches, counts[0]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> torch.Tensor:
        """This micro-batch's part of the step's mean over all accumulation and all processes (whose gradients are averaged later)."""
        loss: torch.Tensor = self.summed_loss(model, inputs) * (self.args.world_size / num_items_in_batch)
        return loss

    # ---- optimizer and schedule

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.optimizer = adamw([model or self.model], self._settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: learning_rate_factor(step, num_training_steps, self._settings)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- divergence

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between backward and optimizer step: the last moment at which the weights are still good."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not bool(torch.isfinite(torch.as_tensor(norm) + self._tr_loss)):
            last = checkpoints.latest(self._job.folder / "checkpoints")
            raise StageError(
                f"loss or gradient is not finite at step {self.state.global_step + 1} (gradient norm {float(norm)}); "
                f"the last good checkpoint is {last.name if last else 'none'}; lower optimizer.learning_rate or optimizer.clip"
            )
        return norm

    # ---- live metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of metrics.jsonl, and about twenty plain lines a stage for people."""
        if "loss" not in logs:
            return
        step, steps, tokens = self.state.global_step, self.state.max_steps, int(self.state.num_input_tokens_seen)
        values: dict[str, float] = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        if tokens:
            seconds = self.metrics.seconds()
            values["tokens"] = tokens
            values["tokens_per_second"] = round((tokens - self._tokens_logged) / max(1e-9, seconds - self._seconds_logged), 1)
            self._seconds_logged, self._tokens_logged = seconds, tokens
        self.metrics.log(step, steps, **values)
        if self.is_world_process_zero() and step * 20 // steps != (step - self.args.logging_steps) * 20 // steps:
            print(f"step {step}/{steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would walk all parameters at every micro-batch."""
        return 0

    # ---- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's own checkpoint, written under another name and sealed. Every process writes, the first one seals."""
        folder, step = self._job.folder / "checkpoints", self.state.global_step
        if self.args.process_index == 0:
            checkpoints.begin(folder, step)
        self.accelerator.wait_for_everyone()
        self._staging = folder / f".partial-step-{step:06d}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.process_index == 0:
                inner = self._staging / f"checkpoint-{step}"
                for path in inner.iterdir():
                    path.rename(self._staging / path.name)
                inner.rmdir()
                checkpoints.seal(self._staging, self._job.checkpoints.keep_last)
        except Exception as error:  # safetensors and torch raise their own for a full disk
            if isinstance(error, OSError) or "No space left" in str(error) or "PytorchStreamWriter failed" in str(error):
                raise checkpoints.unwritten(folder, step, error) from error
            raise
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights and configuration only: no pickled arguments, no tokenizer in every checkpoint."""
        if self.args.should_save:
            self.model.save_pretrained(output_dir, state_dict=state_dict)

    def finish(self, write: Callable[[], Any]) -> None:
        """Let the first process write the artifact while the others wait."""
        if self.is_world_process_zero():
            write()
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None beside checkpoints; publishing writes the card of an artifact."""

    def _agree(self, flag: bool) -> bool:
        """True on every process if it is true on one: a signal may reach some of them earlier than others."""
        if self.args.world_size == 1:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), reduction="sum")
        return bool(total > 0)


class _Boundary(TrainerCallback):  # type: ignore[misc]
    """At step boundaries: seeds that depend on the step alone, and the answer to a signal."""

    def __init__(self, seed: int, rank: int, stop: Callable[[], bool], agree: Callable[[bool], bool]) -> None:
        self._seed, self._rank, self._stop, self._agree = seed, rank, stop, agree

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seed = seed_for(self._seed, "dropout", state.global_step, self._rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would format a stack trace for every absent device
        if args.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agree(self._stop()):
            control.should_save = control.should_training_stop = True


def train(trainer: Any) -> int:
    """Train to the last step, from the newest whole checkpoint if there is one; returns the steps taken in all attempts.

    Raises:
        Interrupted: a signal came; a checkpoint was written.
        StageError: loss or gradient became infinite or not a number.
    """
    folder, steps = Path(trainer.args.output_dir), trainer.args.max_steps
    checkpoint = checkpoints.latest(folder)
    done = checkpoints.step_of(checkpoint) if checkpoint else 0
    trainer.metrics.rewind(done)
    if checkpoint:
        print(f"goes on after step {done} of {steps}", flush=True)
    # Trainer would take one step more from a checkpoint of the last step.
    if checkpoint and done >= steps and not trainer.is_deepspeed_enabled:
        trainer._load_from_checkpoint(str(checkpoint))
        return done
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < steps:
        raise Interrupted(f"interrupted after step {trainer.state.global_step} of {steps}; the same command goes on from there")
    return int(trainer.state.global_step)
