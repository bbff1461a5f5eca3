"""Memory that `pipeline plan` predicts beside memory that processes hold: three sizes of model, DDP and ZeRO-1 to 3, two processes on a CPU.

    python benchmarks/plan_memory.py                    # the table of docs/plan.md
    python benchmarks/plan_memory.py --processes 1 2 --zero 3 --sizes 38M 152M

Each row is pretraining by the stage itself, started as the orchestrator starts it, for a few steps. Held: the kernel's peak of resident memory (VmHWM) from
the first step to the end of the last, less what the process held before the model was made, of the process that holds the most. State: weights, gradients and
optimizer, as the tensors of the model and of its optimizer, where gradients are there. Freed memory goes back to the kernel, as it does in a stage under
ZeRO; without ZeRO a stage keeps it for reuse, which is faster.
"""

import argparse
import gc
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.update(CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONTEXT = 64
ROWS = 4
"""Rows of a step, over all processes; one a forward pass."""
STEPS = 2
VOCABULARY = 512
SIZES: dict[str, dict[str, int]] = {
    "10k": {"hidden_size": 8, "layers": 1, "heads": 1, "mlp_size": 64},
    "19M": {"hidden_size": 512, "layers": 6, "heads": 8, "mlp_size": 1376},
    "38M": {"hidden_size": 512, "layers": 12, "heads": 8, "mlp_size": 1376},
    "57M": {"hidden_size": 768, "layers": 8, "heads": 12, "mlp_size": 2048},
    "152M": {"hidden_size": 1024, "layers": 12, "heads": 16, "mlp_size": 2752},
}
NOTHING = "10k"
WORDS = [first + second for first in "bdfgklmnprst" for second in ("a", "e", "ima", "olo", "ure", "est")]


def prepare(folder: Path) -> None:
    """A tokenizer and a text."""
    from data.templates import TEMPLATES
    from stages.tokenizer.run import trained

    source = random.Random(1)
    lines = [" ".join(source.choices(WORDS, k=60)) for _ in range(200)]
    trained(iter(lines), VOCABULARY, TEMPLATES["turns"]).save_pretrained(folder / "tokenizer")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def orders(folder: Path, data: Path, model: dict[str, int], *, rows: int, steps: int, hardware: Any) -> Any:
    """Pretraining of such a model for so many steps of so many rows, one row a forward pass, on what `prepare` left in `data`."""
    from stages.contract import Input, Job

    config = {
        "model": {**model, "context": CONTEXT},
        "tokenizer": "words",
        "data": [{"path": "text.jsonl"}],
        "held_out": 0.1,
        "tokens": steps * rows * CONTEXT,
        "batch_tokens": rows * CONTEXT,
        "samples": 0,
    }
    return Job(
        stage="base",
        kind="pretrain",
        folder=folder,
        seed=1,
        config=config,
        inputs={"tokenizer": Input(reference="words", kind="tokenizer", path=data / "tokenizer", fingerprint="0")},
        files={"data.0": [data / "text.jsonl"]},
        hardware=hardware,
    )


def measure(files: list[Path]) -> None:
    """One process: trains one model after the other, and writes what it held beside each job. The first one, of almost nothing, only wakes the libraries."""
    from stages import __main__ as process

    job, _ = process.read_job(files[0])
    process.keep_memory = process.return_memory  # what is kept for reuse is not held by anything
    process.prepare_process(job)
    from stages.core.training import StageTraining
    from stages.pretrain import run as stage

    found: dict[str, int] = {}
    begins, train, norm = StageTraining.step_begins, stage.train, StageTraining._get_grad_norm

    class Done(Exception):  # noqa: N818
        """What is measured is training."""

    def at_step(self: Any) -> None:
        begins(self)
        if "start" not in found:
            found["start"] = memory("VmHWM")
            forget()

    def at_norm(self: Any, *arguments: Any, **named: Any) -> Any:
        found["state"] = state(self)
        return norm(self, *arguments, **named)

    def ends(trainer: Any, tokenizer: Any = None) -> int:
        train(trainer, tokenizer)
        found["held"] = memory("VmHWM")
        found["state"] = max(found["state"], state(trainer))
        raise Done

    StageTraining.step_begins = at_step  # type: ignore[method-assign]
    StageTraining._get_grad_norm = at_norm  # type: ignore[method-assign]
    StageTraining._save_checkpoint = lambda *_: None  # type: ignore[method-assign]
    stage.train = ends
    for file in files:
        job, config = process.read_job(file)
        gc.collect()
        found.clear()
        before = {"before": memory("VmRSS")}
        forget()
        with suppress(Done):
            stage.run(job, config, job.hardware)
        (job.folder / f"held-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found | before))
        anew()


def anew() -> None:
    """Let the libraries forget the last engine, and keep the process group."""
    import accelerate.state

    accelerate.state.AcceleratorState._reset_state()
    gc.collect()


def memory(what: str) -> int:
    """Bytes of main memory that this process holds (VmRSS), or has held at most since it was last forgotten (VmHWM)."""
    return int(re.findall(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def forget() -> None:
    """The peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def state(trainer: Any) -> int:
    """Bytes of weights, gradients and optimizer state, each storage once: of tensors that the model and its optimizer, DeepSpeed's too, hold."""
    import torch

    engine = trainer.optimizer
    inner = getattr(engine, "optimizer", engine)  # under accelerate's wrapper, and under DeepSpeed's
    inner = getattr(inner, "optimizer", inner)
    parameters = list(trainer.model.parameters())
    held = [*parameters, *(p.grad for p in parameters), *(getattr(p, "ds_tensor", None) for p in parameters)]
    held += [p for group in inner.param_groups for p in group["params"]]
    held += [value for values in inner.state.values() for value in values.values()]
    held.append(getattr(getattr(engine, "optimizer", None), "grad_partitions_flat_buffer", None))
    storages = [thing.untyped_storage() for thing in held if isinstance(thing, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(folder: Path, size: str, zero: int, processes: int) -> dict[str, int]:
    """Of the process that holds the most: bytes above those before the model was made. Each size has processes of its own, since a model leaves memory
    behind that the next one would find: after one of 19M, one of 38M seems to hold 100 MiB less."""
    from pipeline.launch import command, environment
    from stages.contract import Hardware

    hardware = Hardware(gpus=0, processes=processes, zero=zero, precision="fp32", micro_batch=1, threads=1)
    place = folder / f"{zero}-{processes}-{size}"
    jobs = [orders(place / each, folder, SIZES[each], rows=ROWS, steps=STEPS, hardware=hardware) for each in (NOTHING, size)]
    files = []
    for job in jobs:
        job.folder.mkdir(parents=True)
        files.append(str(job.folder / "job.json"))
        Path(files[-1]).write_text(job.model_dump_json())
    argv = command(Path(files[0]), jobs[0].hardware, (str(Path(__file__).resolve()), "--worker"))
    done = subprocess.run([*argv, *files[1:]], env=environment(jobs[0].hardware, os.environ), capture_output=True, text=True, check=False)
    ranks = [json.loads(path.read_text()) for path in jobs[1].folder.glob("held-*.json")]
    if len(ranks) != processes:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    found = {"state": max(rank["state"] for rank in ranks), "held": max(rank["held"] - rank["before"] for rank in ranks)}
    return found | {"start": sum(rank["start"] - rank["before"] for rank in ranks)}


def predicted(size: str, zero: int, processes: int) -> tuple[str, Any]:
    """The phase that needs most, and what it needs, as `pipeline plan` reckons."""
    from pipeline.estimate.memory import Setting
    from pipeline.estimate.models import Model, players
    from pipeline.estimate.phases import Rows, peak, phases
    from pipeline.estimate.shapes import of_settings
    from stages.core.config import Llama
    from stages.core.workload import Player, Workload

    shape = of_settings(Llama(**SIZES[size], context=CONTEXT), VOCABULARY)  # type: ignore[arg-type]
    work = Workload((Player("model", "model", learns=True, updates=1.0),), new=True)
    setting = Setting(processes, zero, compute=4, device="cpu")
    return peak(phases(work, players(work, {"model": Model(shape)}), Rows(CONTEXT, CONTEXT), setting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=Path, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["19M", "38M", "57M"])
    parser.add_argument("--zero", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--processes", nargs="+", type=int, default=[2])
    arguments = parser.parse_args()
    if arguments.worker:
        measure(arguments.worker)
        return
    print(
        "| model | processes | ZeRO | all before the first step, MiB | state, MiB | planned | held at most, MiB | planned | off | most while |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        for processes, zero, size in itertools.product(arguments.processes, arguments.zero, arguments.sizes):
            found = held(Path(place), size, zero, processes)
            phase, plan = predicted(size, zero, processes)
            numbers = [found["start"], found["state"], plan.state, found["held"], plan.total]
            cells = " | ".join(f"{number / 2**20:,.0f}" for number in numbers)
            print(f"| {size} | {processes} | {zero} | {cells} | {plan.total / found['held'] - 1:+.1%} | {phase} |", flush=True)


if __name__ == "__main__":
    main()
