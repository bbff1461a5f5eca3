"""`pipeline run --slurm`: a run as one job of Slurm, which comes again until the run is done.

The job's first node runs the same command as a person would. Shortly before the job's time is over, or it is preempted, Slurm warns with
SIGUSR1: the stage writes a checkpoint, the run ends with 130, and the job queues again; what it does then is to go on.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError, Problem, RecipeError
from pipeline.recipe import Recipe
from stages.contract import INTERRUPTED, Hardware

SCRIPT = "job.sbatch"


def job_script(recipe: Recipe, command: Sequence[str], folder: Path, here: Path) -> str:
    """The text of the job. `command` is what each node of one would type, `folder` the run's, `here` where the job starts.

    Raises RecipeError where the recipe leaves open what Slurm has to know.
    """
    hardware = recipe.hardware
    if hardware.gpus == "auto":
        message = "found auto, and Slurm must be told how many GPUs each node is to give: a number, or 0 for CPUs"
        raise RecipeError([Problem(recipe.document.place(("hardware", "gpus")), "hardware.gpus", message)])
    if hardware.hosts:
        message = "names nodes, and Slurm chooses them: set hardware.nodes instead"
        raise RecipeError([Problem(recipe.document.place(("hardware", "hosts")), "hardware.hosts", message)])
    options = "".join(f"#SBATCH {option}\n" for option in sbatch_options(recipe.name, hardware, folder))
    return (
        "#!/bin/bash\n"
        + options
        + BODY.format(
            here=shlex.quote(str(here)),
            setup="".join(f"{line}\n" for line in hardware.slurm.setup),
            hosts=_hosts(folder) if (hardware.nodes or 1) > 1 else "",
            command=shlex.join(command) + (' "hardware.hosts=$hosts" hardware.reach=srun' if (hardware.nodes or 1) > 1 else ""),
            interrupted=INTERRUPTED,
        )
    )


def sbatch_options(name: str, hardware: Hardware, folder: Path) -> list[str]:
    """What the job asks for."""
    asked = hardware.slurm
    given = {
        "job-name": name,
        "nodes": hardware.nodes or 1,
        "ntasks-per-node": 1,
        "gpus-per-node": hardware.gpus or None,
        "cpus-per-task": asked.cpus,
        "mem": asked.memory,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "output": folder / "slurm-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{asked.warning}",
    }
    return [f"--{option}={value}" for option, value in given.items() if value is not None] + ["--requeue", *asked.options]


BODY = """
cd {here} || exit 1
{setup}{hosts}
# A warning must reach the run at once, which it does while the shell waits for a child, and not while it runs one.
warned=
trap 'warned=yes; kill -USR1 "$run"' USR1
trap 'kill -TERM "$run"' TERM
{command} &
run=$!
while true; do
  wait "$run"
  kill -0 "$run" 2> /dev/null || break # a signal ends the waiting, not the run
done
wait "$run" # for its own code: the last waiting may have been ended by a signal in the moment in which the run ended
code=$?
if [ "$code" -eq {interrupted} ] && [ -n "$warned" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def _hosts(folder: Path) -> str:
    """The lines that tell the run which nodes it was given; steps of the job may use what the job has."""
    return (
        f"hosts={shlex.quote(str(folder))}/hosts-$SLURM_JOB_ID\n"
        'scontrol show hostnames "$SLURM_JOB_NODELIST" > "$hosts" || exit 1\n'
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"\n'
    )


def check_sbatch() -> None:
    """Raises RecipeError where no job can be submitted from this machine."""
    if shutil.which("sbatch") is None:
        raise RecipeError("there is no sbatch here; on a node that submits jobs, run this again, or look at the job with --slurm --dry-run")


def submit(text: str, folder: Path) -> str:
    """Writes the job beside the run and submits it; what sbatch says. Raises PipelineError where it refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / SCRIPT
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"sbatch refused {os.path.relpath(script)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def command_of(words: Sequence[str]) -> list[str]:
    """The command of the job: the one that was typed, with this environment's Python, less what only concerns submitting."""
    return [sys.executable, "-m", "pipeline", "run", *(word for word in words if word not in ("--slurm", "--dry-run", "--json"))]
