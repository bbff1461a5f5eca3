"""`python -m stages job.json`: one stage, in a process of its own. Exit codes as in `stages.contract`."""

import atexit
import ctypes
import faulthandler
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from data.errors import DataError
from stages.contract import AGAIN, DONE, FAILED, INTERRUPTED, WRONG_INPUT, Job, StageError
from stages.core.divergence import RolledBack
from stages.core.files import is_refused_by_disk, write_json
from stages.core.interrupt import Interrupted
from stages.core.neighbours import Neighbours, neighbours
from stages.core.trust import trust
from stages.registry import STAGES, config_class, run_function


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m stages job.json", file=sys.stderr)
        return WRONG_INPUT
    try:
        job, config = read_job(Path(arguments[0]))
    except (OSError, ValueError) as error:
        hint = "" if os.environ.get("GROUP_RANK", "0") == "0" else "; every node must see the run's folder under one path"
        return _say(WRONG_INPUT, f"{arguments[0]}: {_sentence(error)}{hint}")
    prepare_process(job)
    trust(job)
    return run_stage(job, config)


def read_job(path: Path) -> tuple[Job, Any]:
    """The job and its validated settings. Raises OSError or ValueError (pydantic's is one)."""
    job = Job.model_validate_json(path.read_text(encoding="utf-8"))
    if job.kind not in STAGES:
        raise ValueError(f"no stage kind '{job.kind}' (there are {', '.join(STAGES)})")
    config = config_class(job.kind).model_validate(job.config)
    if (told := config.impossible(job.hardware)) is not None:
        raise ValueError(": ".join(told))
    return job, config


def run_stage(job: Job, config: Any) -> int:
    """Run the stage and write its result. Every way to fail ends in one sentence on the last line, and in a note beside the log."""
    try:
        with neighbours(job, partial(note_failure, job, FAILED, known=False, lost=True)) as others:
            return _carried_out(job, config, others)
    except BaseException as error:
        return _failed(job, *judged(error))


def _carried_out(job: Job, config: Any, others: Neighbours | None) -> int:
    try:
        result = run_function(job.kind)(job, config, job.hardware)
        if os.environ.get("RANK", "0") == "0":
            write_json(job.folder / "result.json", result.model_dump(mode="json"))
    except BaseException as error:
        found = judged(error)
        # A collective that breaks speaks of sockets; what broke it is another node.
        if not found[2] and others is not None and (sentence := others.gone()):
            return _failed(job, FAILED, sentence, known=False, lost=True)
        return _failed(job, *found)
    return DONE


def _failed(job: Job, code: int, sentence: str, known: bool, lost: bool = False) -> int:
    if not known and not lost:
        traceback.print_exc()
    note_failure(job, code, sentence, known=known, lost=lost)
    return _say(code, f"{job.stage}: {sentence}")


def judged(error: BaseException) -> tuple[int, str, bool]:
    """Exit code, sentence, and whether the stage itself decided to end: only what it did not foresee may go better when it is tried again."""
    if isinstance(error, DataError):
        return WRONG_INPUT, str(error), True
    if isinstance(error, StageError):
        return FAILED, str(error), True
    if isinstance(error, RolledBack):
        return AGAIN, str(error), True
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return INTERRUPTED, str(error) or "stopped at once, without a new checkpoint", True
    if is_refused_by_disk(error):
        return (
            FAILED,
            f"the disk takes no more: {_sentence(error)}; checkpoints that are there stay whole, and the same command goes on",
            True,
        )
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return FAILED, "out of memory; lower hardware.micro_batch or set hardware.gradient_checkpointing", False
    return FAILED, f"{type(error).__name__}: {_sentence(error)}", False


def note_failure(job: Job, code: int, sentence: str, *, known: bool, lost: bool = False) -> None:
    """For the orchestrator: a launcher turns every exit code into 1, and the first process to fail is rarely the last to speak."""
    rank = os.environ.get("RANK", "0")
    folder = job.folder / "attempts" / str(job.attempt)
    with suppress(OSError):  # a full disk, or a job that is driven by hand elsewhere
        if folder.is_dir():
            said = {"rank": int(rank), "code": code, "sentence": sentence, "known": known, "lost": lost, "at": time.time()}
            write_json(folder / f"failed-{rank}.json", said)


def prepare_process(job: Job) -> None:
    """What must be set before torch is imported: memory allocation, threads, and libraries that would phone home or draw bars."""
    if job.hardware.zero in (0, "auto"):
        keep_memory()
    else:
        return_memory()
    if "RANK" in os.environ:
        die_with_launcher()
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - one process tells the story; errors of all are heard
    os.environ.setdefault("OMP_NUM_THREADS", str(job.hardware.threads or cores() // (job.hardware.processes or 1) or 1))
    # Threads that spin while they wait for one another make a busy machine several times slower (measured 2 to 5 times on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if job.hardware.threads:
        os.environ["OMP_NUM_THREADS"] = str(job.hardware.threads)
    if job.hardware.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["DS_ACCELERATOR"] = "cpu"  # or DeepSpeed looks for a device, and warns
    if job.hardware.zero not in (0, "auto"):
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ.pop("ACCELERATE_USE_CPU", None)  # with it accelerate passes DeepSpeed over, without a word
    # Deprecations among the libraries are theirs to settle; a user's log is for the stage.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch\.distributed)\b")
    os.environ.update(
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
        TOKENIZERS_PARALLELISM="true",
        TQDM_DISABLE="1",
    )


def keep_memory() -> None:
    """Let glibc reuse freed memory instead of returning every large tensor to the kernel: 1.06 to 1.28 times faster training on a CPU."""
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library: nothing to set


def return_memory() -> None:
    """Let glibc give every freed tensor back to the kernel: what ZeRO gathers, flattens and sends comes in pieces of all sizes, and kept for reuse
    they would take as much again as is in use; even pieces between 32 and 128 KiB, glibc's own limit, took 11 % more (measured: docs/plan.md)."""
    m_mmap_threshold = -3
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(m_mmap_threshold, 32 * 1024)


def die_with_launcher() -> None:
    """A launcher puts its workers into sessions of their own, where no signal to the stage's group finds them: when it is killed, so are they.

    They hold no lock either, so that a survivor would write into a folder that the next run works on.
    """
    pr_set_pdeathsig = 1
    with suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(code: int, sentence: str) -> int:
    try:
        sys.stdout.flush()
        print(sentence, file=sys.stderr, flush=True)
    except OSError:  # the disk that holds the log is full: the exit code is all that can be said, and Python would change it as it ends
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return code


def _sentence(error: BaseException) -> str:
    """One line of an error that was not written for people."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__


def leave(code: int) -> NoReturn:
    """End the process. A worker of a launcher whose stage is done goes without tearing down what is left: threads of gloo and DeepSpeed outlive the
    interpreter, and one that meets it half gone can abort, which the launcher would take for a stage that failed."""
    if code == DONE and "RANK" in os.environ:
        atexit._run_exitfuncs()  # trackers send their last numbers
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    faulthandler.enable()  # a crash of compiled code tells in the log where it was
    leave(main(sys.argv[1:]))
