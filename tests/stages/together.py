"""Jobs carried out one after the other by several processes that are started once: their imports cost more than tiny runs do.

    together([task(job), task(job, kills=(2, 5))], processes=2)

As a script it is one of those processes. A kill is an exception that nothing of ours catches, on every process after the same step: what the
disk holds is all that the next attempt has. (Real signals are tested where processes are started for each attempt.)
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from stages.contract import Job

ROOT = Path(__file__).resolve().parents[2]


def task(job: Job, kills: Sequence[int] = ()) -> dict:
    """The job, and after which steps attempts are killed before the one that ends it."""
    (job.folder / "job.json").write_text(job.model_dump_json())
    return {"job": str(job.folder / "job.json"), "kills": list(kills)}


def together(tasks: Sequence[dict], folder: Path, processes: int = 2, seconds: int = 1800, *, steady: bool = False) -> None:
    """Carry all tasks out, with AdamW as it is or `steady`. Raises AssertionError with the end of what was printed."""
    (folder / "tasks.json").write_text(json.dumps(tasks))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}
    argv = [sys.executable, *(launcher if processes > 1 else ()), __file__, str(folder / "tasks.json"), *(["steady"] if steady else [])]
    done = subprocess.run(argv, env=settings, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    told = done.stderr.partition("ChildFailedError")[0].partition("torch/distributed/elastic")[0]
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{told[-4000:]}"


def be_steady() -> None:
    """AdamW that hardly divides: where a gradient is almost zero, its rounding no longer shows at the size of the learning rate."""
    from stages.core import schedules

    usual = schedules.adamw

    def adamw(*given):
        made = usual(*given)
        for group in made.param_groups:
            group["eps"] = 1.0
        return made

    schedules.adamw = adamw  # before anything imports it from there


class Killed(BaseException):
    """Stands for SIGKILL."""


def attempt(job: Job, kill: int | None) -> None:
    """Run the job in this process, or up to the end of a step and not to what follows it."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from stages.core import checkpoints, training
    from stages.ppo import loop
    from stages.registry import config_class, run_function

    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true" if job.hardware.zero else "false"
    after_step, collect = training.Boundary.on_step_end, loop.collect
    rollouts = [0]

    def killing(self, args, state, control, **kwargs):
        if state.global_step == kill:
            raise Killed
        after_step(self, args, state, control, **kwargs)

    def collecting(*arguments, **kwargs):
        rollouts[0] += 1
        if rollouts[0] == kill:
            raise Killed
        return collect(*arguments, **kwargs)

    savers, begin = [], checkpoints.Saver.__init__

    def beginning(self, *arguments, **kwargs):
        savers.append(self)
        begin(self, *arguments, **kwargs)

    training.Boundary.on_step_end, loop.collect, checkpoints.Saver.__init__ = killing, collecting, beginning
    try:
        run_function(job.kind)(job, config_class(job.kind).model_validate(job.config), job.hardware)
    except Killed:
        for saver in savers:
            saver._sealer.shutdown()  # a kill ends this thread; here it would seal into the next attempt
    finally:
        training.Boundary.on_step_end, loop.collect, checkpoints.Saver.__init__ = after_step, collect, begin


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    if sys.argv[2:] == ["steady"]:
        be_steady()
    for given in json.loads(Path(sys.argv[1]).read_text()):
        for kill in [*given["kills"], None]:
            attempt(Job.model_validate_json(Path(given["job"]).read_text()), kill)
