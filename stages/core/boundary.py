"""What happens between the steps of a Trainer: seeds that depend on the step alone, the answer to a signal, a checkpoint when it is time, a beat."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from stages.core.seeds import seed_for
from stages.core.watchdog import beat


class Boundary(TrainerCallback):  # type: ignore[misc]
    """Watches over one `StageTraining`."""

    def __init__(self, trainer: Any, seed: int, stop: Callable[[], bool]) -> None:
        self._trainer, self._seed, self._stop = trainer, seed, stop

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seed = seed_for(self._seed, "dropout", state.global_step, args.process_index)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would format a stack trace for every absent device
        if args.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self._trainer.step_begins()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        beat()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        beat()
        asked, due = self._trainer.any_of(self._stop(), self._trainer.saver.is_due())
        control.should_save = control.should_save or asked or due
        control.should_training_stop = control.should_training_stop or asked
