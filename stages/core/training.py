"""What every stage on transformers' Trainer shares: a mixin that makes it stop, save and resume as this project promises.

    class Training(StageTraining, Trainer): ...
    trainer = Training(model, TrainingArguments(**arguments(...)), train_dataset=rows, data_collator=collate, job=job, ...)
    train(trainer)

Trainer keeps the loop, accumulation, mixed precision and the distributed engines. The mixin replaces what measured wrong: checkpoints that a
kill leaves half-written, NaN that is logged as 0, a signal that ends in success, weight averages of averages over micro-batches.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate.utils.other
import torch
from safetensors.torch import load_file, save_file

from stages.contract import Job, StageError
from stages.core import checkpoints, metrics
from stages.core.boundary import Boundary
from stages.core.checkpoints import Ground, Saver, Score
from stages.core.config import Optimizer
from stages.core.divergence import Trouble, rows_told, spike, spikes
from stages.core.interrupt import Interrupted
from stages.core.metrics import Metrics
from stages.core.scaling import may_overflow, scaler_for
from stages.core.schedules import adamw, learning_rate_factor
from stages.core.trackers import Trackers
from stages.core.watchdog import watching
from stages.core.zero import make_whole, settle, shard, size_of_state, zero_stage

if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() not in ("1", "true"):
    # Where DeepSpeed is installed, accelerate imports it to ask whether a model is one of its engines: 3 seconds that only ZeRO needs.
    accelerate.utils.other.is_deepspeed_available = lambda: False

TRAINED = "trained.safetensors"
"""In a checkpoint of a model with adapters: the parameters that train, under the model's own names."""


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

    def __init__(
        self, *args: Any, job: Job, settings: Optimizer, stop: Callable[[], bool], score: Score | None = None, **kwargs: Any
    ) -> None:
        """`stop()` is true once the stage was asked to end; `score` says which checkpoint is the best one."""
        self._job, self._settings, self._score = job, settings, score
        self._staging: Path | None = None
        self._loss_before: torch.Tensor | None = None
        self._skipped = self._globalstep_before = 0
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
        if self.args.fp16:  # accelerate has it on GPUs alone; the arithmetic is the same on a CPU
            self.accelerator.native_amp = True
            self.accelerator.scaler = scaler_for(torch.float16, self.args.device)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the whole step's count: Trainer must not divide again
        if zero_stage(job.hardware) and not self.is_deepspeed_enabled:
            raise StageError(f"hardware.zero is {job.hardware.zero}, and DeepSpeed is not in charge: is ACCELERATE_USE_CPU set?")
        if zero_stage(job.hardware):
            settle(self.accelerator.deepspeed_plugin.deepspeed_config, self.model, job.folder if writes else None)
        self.trouble = Trouble(job, first=self.is_world_process_zero())
        self.saver = Saver(
            job.folder / "checkpoints",
            job.checkpoints,
            ground=Ground(self.args.world_size, zero_stage(job.hardware)),
            first=self.is_world_process_zero(),
            wait=self.accelerator.wait_for_everyone,
            expected=size_of_state(self.model, sharded=self.is_deepspeed_enabled),
            total=lambda number: int(self.accelerator.reduce(torch.tensor(number, device=self.args.device), reduction="sum")),
        )
        self.tokenizer: Any = None
        self.add_callback(Boundary(self, job.seed, stop))

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
                optimizer or self.optimizer,
                lambda step: learning_rate_factor(step, num_training_steps, self._settings) * self.trouble.factor(step),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer does; then the learning rate of the next step, which a roll back may have lowered since the checkpoint was written."""
        for name in ("optimizer.pt", "scheduler.pt") if checkpoint and not self.is_deepspeed_enabled else ():
            if not (Path(str(checkpoint)) / name).is_file():  # Trainer would go on without a word, to another model
                raise StageError(f"{checkpoint} was whole and now has no {name}; does another run delete beneath this one?")
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.trouble.events:
            return
        step = self.lr_scheduler.last_epoch
        for group, base, factor in zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(step)
        self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _load_scaler(self, checkpoint: str | None) -> None:
        """As Trainer does, unless the checkpoint was written in fp16 and this is another precision."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    # ---- divergence

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between backward and optimizer step: the last moment at which the weights are still good."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is None:
            return norm
        loss, gradient = self.any_of(not bool(torch.isfinite(self._tr_loss)), not math.isfinite(float(norm)))
        if gradient and not loss and may_overflow(self.accelerator.scaler):
            self._overflowed()
            return None
        if loss or gradient:
            self._diverged(float(norm), model)
        return norm

    def _overflowed(self) -> None:
        """The scaler leaves the step out by itself, on every process, since all have the same gradients; the schedule goes on."""
        if self.is_world_process_zero():
            scale = self.accelerator.scaler.get_scale()
            print(
                f"step {self.state.global_step + 1} is left out: the loss scale {scale:g} was too large for fp16, and is halved", flush=True
            )

    def _diverged(self, norm: float, model: Any) -> None:
        """Stop, roll back, or leave this batch out: without gradients AdamW leaves a weight and its moments alone."""
        self.saver.finish()
        step = self.state.global_step
        loss = float(self._tr_loss) - float(self._loss_before or 0.0)
        what = f"loss or gradient is not finite (loss {loss:.4g}, gradient norm {norm:.4g})"
        self.trouble.meet(step + 1, what, self._rows_of(step), may_skip=not self.is_deepspeed_enabled)
        model.zero_grad(set_to_none=True)
        self._tr_loss.copy_(self._loss_before if self._loss_before is not None else 0.0)
        self._skipped += 1

    def _rows_of(self, step: int) -> str:
        """The rows of a step in words; what they hold is written down beside the attempt's log."""
        args = self.args
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return rows_told(self.trouble, self.train_dataset, range(step * rows, (step + 1) * rows), self.tokenizer, step + 1)

    def notes(self) -> list[str]:
        """What the stage did about divergences, and the losses that stood out."""
        return [*self.trouble.notes(), *spikes(metrics.read(self._job.folder / "metrics.jsonl"), self._job.divergence.spike)]

    # ---- live metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of metrics.jsonl, and about twenty plain lines a stage for people."""
        if "loss" not in logs:
            return
        step, steps, tokens = self.state.global_step, self.state.max_steps, int(self.state.num_input_tokens_seen)
        values: dict[str, float] = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        values["loss"] *= self._share_of_learned()
        self._flag(step, values["loss"])
        if self.accelerator.scaler is not None:
            values["loss_scale"] = self.accelerator.scaler.get_scale()
        if tokens:
            seconds = self.metrics.seconds()
            values["tokens"] = tokens
            values["tokens_per_second"] = round((tokens - self._tokens_logged) / max(1e-9, seconds - self._seconds_logged), 1)
            self._seconds_logged, self._tokens_logged = seconds, tokens
        self.metrics.log(step, steps, **values)
        if self.is_world_process_zero() and step * 20 // steps != (step - self.args.logging_steps) * 20 // steps:
            print(f"step {step}/{steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)

    def _share_of_learned(self) -> float:
        """Trainer divides by all steps since the last line; those that were skipped have no loss."""
        steps = self.state.global_step - self._globalstep_before
        learned, self._skipped = steps - self._skipped, 0
        self._globalstep_before = self.state.global_step
        return steps / learned if learned > 0 else float("nan")

    def _flag(self, step: int, loss: float) -> None:
        if not self.is_world_process_zero():
            return
        sentence = spike(loss, metrics.losses(self._job.folder), self._job.divergence.spike)
        if sentence is not None:
            print(f"warning: {sentence}, at step {step}", flush=True)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would walk all parameters at every micro-batch."""
        return 0

    # ---- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights beside the optimizer; DeepSpeed's engine writes both together."""
        if self.is_deepspeed_enabled:
            Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's own checkpoint, written under another name and sealed. Every process writes, the first one seals."""
        step = self.state.global_step
        self.saver.save(step, lambda partial: self._write(model, trial, partial), self._measured(step))

    def _write(self, model: Any, trial: Any, partial: Path) -> None:
        self._staging = partial
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            inner = partial / f"checkpoint-{self.state.global_step}"
            for path in inner.iterdir():
                path.rename(partial / path.name)
            inner.rmdir()

    def _measured(self, step: int) -> float | None:
        """The held-out number by which the best checkpoint is kept, if it is."""
        if self._score is None or not self._job.checkpoints.keep_best:
            return None
        value = self._score.measure()
        self.metrics.log(step, self.state.max_steps, **{self._score.name: value})
        return -value if self._score.lower else value

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights and configuration only: no pickled arguments, no tokenizer in every checkpoint.

        Of a model with adapters, exactly what trains: peft's own files leave out the network that makes virtual tokens, and a stack's names.
        """
        if not self.args.should_save:
            return
        if not hasattr(self.model, "peft_config"):
            self.model.save_pretrained(output_dir, state_dict=state_dict)
            return
        whole = state_dict or self.model.state_dict()
        trained = {name: whole[name].detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        given = load_file(Path(resume_from_checkpoint) / TRAINED)
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if given.keys() != own.keys():
            raise StageError(
                f"{resume_from_checkpoint} holds other parameters than train now; remove the checkpoint to start the stage anew"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(given[name])

    def finish(self, write: Callable[[], Any]) -> None:
        """Let the first process write the artifact while the others wait; shards are brought together first."""
        # accelerate has put autocast into the model's forward pass: what is compared from here on would be rounded. Its own way back
        # (`unwrap_model`) takes transformers' decorators off as well.
        if (own := self.model.__dict__.pop("_original_forward", None)) is not None:
            self.model.forward = own
        make_whole(self.model, self._probe, keep=self.is_world_process_zero())
        if self.is_world_process_zero():
            write()
        self.accelerator.wait_for_everyone()

    def _probe(self) -> torch.Tensor:
        """The loss of one row or pair: something that every weight has a part in."""
        return self.summed_loss(self.model, self._prepare_inputs(self.data_collator([self.train_dataset[0]])))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None beside checkpoints; publishing writes the card of an artifact."""

    def step_begins(self) -> None:
        """Remember the loss so far: a step that is skipped must not leave a trace in it."""
        self._loss_before = self._tr_loss.clone()

    def any_of(self, *flags: bool) -> list[bool]:
        """Each flag true on every process if it is true on one: a signal may reach some of them earlier than others."""
        if self.args.world_size == 1:
            return list(flags)
        totals = self.accelerator.reduce(torch.tensor([float(flag) for flag in flags], device=self.args.device), reduction="sum")
        return [bool(total > 0) for total in totals]


def train(trainer: Any, tokenizer: Any = None) -> int:
    """Train to the last step, from the newest whole checkpoint if there is one; returns the steps taken in all attempts.

    `tokenizer` turns the rows of a step that diverged into text.

    Raises:
        Interrupted: a signal came; a checkpoint was written.
        RolledBack: a step diverged, and the recipe asks to go on from the last checkpoint.
        StageError: loss or gradient became infinite or not a number, or the disk is full.
    """
    trainer.tokenizer = tokenizer
    steps = trainer.args.max_steps
    checkpoint, done = _take_up(trainer)
    # Trainer would take one step more from a checkpoint of the last step.
    if checkpoint and done >= steps and not trainer.is_deepspeed_enabled:
        trainer._load_from_checkpoint(str(checkpoint))
        return done
    if trainer.is_deepspeed_enabled:
        shard(trainer.model, trainer.accelerator.deepspeed_plugin.deepspeed_config)
    with watching(trainer._job, trainer.args.process_index):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.saver.finish()
    if trainer.state.global_step < steps:
        raise Interrupted(f"interrupted after step {trainer.state.global_step} of {steps}; the same command goes on from there")
    return int(trainer.state.global_step)


def _take_up(trainer: Any) -> tuple[Path | None, int]:
    """The newest whole checkpoint and its step; what was recorded after it is taken back."""
    checkpoint = trainer.saver.newest()
    done = checkpoints.step_of(checkpoint) if checkpoint else 0
    trainer.metrics.rewind(done)
    trainer._globalstep_before = done
    if checkpoint:
        note = checkpoints.check_ground(checkpoint, trainer.saver.ground)
        print(*filter(None, [f"goes on after step {done} of {trainer.args.max_steps}", note]), sep="\n", flush=True)
    artifact = 4 * sum(parameter.numel() for parameter in trainer.model.parameters())
    trainer.saver.check_room(artifact, every=int(trainer.args.save_steps), steps=trainer.args.max_steps)
    return checkpoint, done
