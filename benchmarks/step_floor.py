"""What a training step costs at least, however small the model is: processor time of steps that compute next to nothing.

    OMP_NUM_THREADS=1 python benchmarks/step_floor.py        # the figures of docs/plan.md

Pretraining by the stage itself, with a width of 8 and rows of 64 tokens, so that what is left is Python, the Trainer, autograd and starting kernels. On a GPU
all of that is there too, and a kernel costs more to start. Processor time is that of the process: other work on the machine changes it little.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.update(CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

STEPS, UNCOUNTED = 40, 10
CASES = ((1, 1), (8, 1), (8, 4), (1, 4))
"""Layers, and passes of a step."""


def orders(folder: Path, layers: int, passes: int) -> Any:
    import plan_memory

    from stages.contract import Hardware

    model = plan_memory.SIZES[plan_memory.NOTHING] | {"layers": layers}
    hardware = Hardware(gpus=0, zero=0, precision="fp32", micro_batch=1, threads=1)
    return plan_memory.orders(folder / f"{layers}-{passes}", folder, model, rows=passes, steps=STEPS, hardware=hardware)


def main() -> None:
    from plan_memory import prepare

    from stages import __main__ as process

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        process.prepare_process(orders(folder, 1, 1))
        from stages.core.training import StageTraining
        from stages.pretrain import run as stage

        class Done(Exception):  # noqa: N818
            """What is measured is training."""

        began: list[float] = []
        begins, train = StageTraining.step_begins, stage.train

        def at_step(self: Any) -> None:
            began.append(time.process_time())
            begins(self)

        def ends(trainer: Any, tokenizer: Any = None) -> int:
            train(trainer, tokenizer)
            raise Done

        StageTraining.step_begins = at_step  # type: ignore[method-assign]
        StageTraining._save_checkpoint = lambda *_: None  # type: ignore[method-assign]
        stage.train = ends
        for layers, passes in CASES:
            began.clear()
            job = orders(folder, layers, passes)
            job.folder.mkdir()
            with suppress(Done):
                stage.run(job, _config(job), job.hardware)
            steps = [later - earlier for earlier, later in itertools.pairwise(began)][UNCOUNTED:]
            print(f"layers {layers}  passes {passes}  {1e3 * statistics.median(steps):.1f} ms a step (median of {len(steps)})", flush=True)


def _config(job: Any) -> Any:
    from stages.registry import config_class

    return config_class(job.kind).model_validate(job.config)


if __name__ == "__main__":
    main()
