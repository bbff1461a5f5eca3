"""Kill a stage with SIGKILL again and again, go on with it, and compare the bits of its weights with those of a run that nobody killed.

    python -m benchmarks.kill --rounds 25                                 every stage, one process
    python -m benchmarks.kill --rounds 25 --stages sft ppo --processes 2 --zero 3

A round is one kill. The process that is to die says when it begins a step, a checkpoint, a rollout or its end (and when it ends a rollout); it is
killed from outside, a random time after one of these signs, so that kills land anywhere in what the sign began. Which sign, and how long after it,
follow from `--seed`; where the kill landed is told by the signs that came before it and by the checkpoint that was left unfinished. Of several
processes a random one is killed, and the others a random time later, as a launcher would. A run is killed a few times and then left to its end.
Stages are small (`kill_stages.py`) and forked from one process that has loaded torch, so that a round costs a second or two of processor time.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kill_stages import JOBS

PATIENCE = 600.0
"""Seconds that an attempt may take."""
MOMENTS = {"start-up": "", "step": "s", "checkpoint write": "c", "rollout": "r", "end": "e"}
"""Where a kill may land, and the sign that begins it."""
SHARES = (1, 2, 3, 3, 1)
"""How often each moment is aimed at."""
KILLS_OF_A_RUN = (3, 6)
"""Fewest and most kills before a run is left to its end."""


def main(arguments: list[str] | None = None) -> int:
    options = read(arguments)
    surround(options.zero)
    load(options.stages, options.zero)
    lines = []
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        for name in options.stages:
            trial = Trial(name, Path(place), options.processes, options.zero, random.Random(f"{options.seed} {name}"))
            lines.append(trial.run(options.rounds))
            if not options.json:
                print(*([HEAD] if len(lines) == 1 else []), row(lines[-1]), sep="\n", flush=True)
    if options.json:
        print(json.dumps(lines))
    return 0 if all(line["equal"] == line["finished"] and line["kills"] >= options.rounds for line in lines) else 1


def read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="kills of each stage, at least (default: 5)")
    parser.add_argument("--stages", nargs="+", choices=list(JOBS), default=list(JOBS), help="default: all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--zero", type=int, choices=range(4), default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


HEAD = (
    f"| stage | processes | kills | {' | '.join(f'in {moment}' for moment in MOMENTS)} | runs finished | equal | seconds |\n"
    f"|---|---|{'---:|' * (len(MOMENTS) + 4)}"
)


def row(line: dict[str, Any]) -> str:
    where = f"{line['processes']}" + (f", ZeRO-{line['zero']}" if line["zero"] else "")
    kinds = " | ".join(str(line["by"].get(moment, 0)) for moment in MOMENTS)
    return f"| {line['stage']} | {where} | {line['kills']} | {kinds} | {line['finished']} | {line['equal']} | {line['seconds']:.0f} |"


def surround(zero: int) -> None:
    """The environment as the orchestrator and `stages.__main__` make it; here it must be there before torch is loaded."""
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1", DS_ACCELERATOR="cpu", TOKENIZERS_PARALLELISM="false")
    os.environ.update({"ACCELERATE_USE_DEEPSPEED": "true"} if zero else {"ACCELERATE_USE_CPU": "true"})


def load(names: list[str], zero: int) -> None:
    """Imports what the stages need, once, before anything is forked."""
    from stages.registry import run_function

    if zero:
        # `initialize` imports torch's compiler by it, 2 seconds that each process would spend anew.
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import tests.stages.tiny  # noqa: F401

    for kind in {name.partition(" ")[0] for name in names}:
        run_function(kind)
    gc.freeze()  # what is there stays in pages that all forks share


# Attempts --------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """The forked processes of one attempt, and the signs that one of them gives."""

    pids: list[int]
    signs: int
    """The reading end of the victim's pipe."""
    seen: str = ""
    codes: dict[int, int] = field(default_factory=dict)

    def sign(self) -> str:
        """The victim's next sign; empty once it has ended."""
        if not select.select([self.signs], [], [], PATIENCE)[0]:
            self.kill(self.pids)
            raise SystemExit(f"nothing seen for {PATIENCE:.0f} seconds after '{self.seen}'")
        said = os.read(self.signs, 1).decode()
        self.seen += said
        return said

    def wait_for(self, sign: str, number: int) -> bool:
        """Whether the victim gave the sign so many times, before it ended."""
        while self.seen.count(sign) < number:
            if not self.sign():
                return False
        return True

    def poll(self) -> bool:
        """Whether any process still lives."""
        for pid in self.pids:
            if pid not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) < len(self.pids)

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            if pid not in self.codes:
                os.kill(pid, signal.SIGKILL)

    def join(self) -> None:
        """Wait for all, and take in the last signs."""
        deadline = time.monotonic() + PATIENCE
        while self.poll():
            if time.monotonic() > deadline:
                self.kill(self.pids)
            time.sleep(0.005)
        while said := os.read(self.signs, 4096):
            self.seen += said.decode()
        os.close(self.signs)


def start(job: Any, processes: int, zero: int, victim: int) -> Attempt:
    """Fork the processes of a stage; that of rank `victim` gives signs."""
    shutil.rmtree(job.artifact, ignore_errors=True)  # as the orchestrator does
    port, (reading, writing) = free_port(), os.pipe()
    pids = []
    for rank in range(processes):
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os.close(reading)
            live(job, rank, processes, zero, port, writing if rank == victim else None)
        pids.append(pid)
    os.close(writing)
    return Attempt(pids, reading)


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def live(job: Any, rank: int, processes: int, zero: int, port: str, signs: int | None) -> None:
    """What a forked process does, to its end."""
    code = 1
    try:
        with (job.folder / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if processes > 1 or zero:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="kill",
            )  # fmt: skip
        if signs is not None:
            give_signs(signs)
        from stages.__main__ import main as stage

        code = stage([str(job.folder / "job.json")])
    finally:
        sys.stdout.flush()
        os._exit(code)


def give_signs(pipe: int) -> None:
    """Let this process say what it begins; a letter each, as in MOMENTS, and `R` for a rollout that is over."""
    from stages.core.boundary import Boundary
    from stages.core.checkpoints import Saver

    def announced(owner: Any, name: str, before: str, after: str = "") -> None:
        call = getattr(owner, name)

        def calling(*arguments: Any, **named: Any) -> Any:
            os.write(pipe, before.encode())
            found = call(*arguments, **named)
            os.write(pipe, after.encode())
            return found

        setattr(owner, name, calling)

    announced(Boundary, "on_step_begin", "s")
    announced(Saver, "save", "c")
    announced(Saver, "finish", "e")
    if "stages.ppo.run" in sys.modules:
        from stages.ppo.loop import Training
        from stages.ppo.rollout import Rollouts

        announced(Training, "update", "s")
        announced(Rollouts, "of_step", "r", "R")


@dataclass
class Trial:
    """One stage, killed until it was killed often enough."""

    name: str
    place: Path
    processes: int
    zero: int
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    spans: dict[str, float] = field(default_factory=dict)
    """Seconds that each moment takes, from the run that nobody kills."""
    counts: Counter[str] = field(default_factory=Counter)
    """Signs that it gives."""

    def run(self, rounds: int) -> dict[str, Any]:
        began = time.monotonic()
        whole = self.uninterrupted()
        finished = equal = 0
        while self.kills.total() < rounds:
            finished += 1
            equal += self.killed() == whole or self.keep()
        return {
            "stage": self.name, "processes": self.processes, "zero": self.zero, "kills": self.kills.total(), "by": dict(self.kills),
            "finished": finished, "equal": equal, "sha256": whole[0], "seconds": time.monotonic() - began,
        }  # fmt: skip

    def folder(self, which: str) -> Path:
        return self.place / self.name.replace(" ", "-") / which / "stage"

    def keep(self) -> bool:
        """A run that came out otherwise is copied for whoever looks for the cause."""
        copies = Path(tempfile.mkdtemp(prefix="kill-differs-"))
        shutil.copytree(self.folder("whole").parent.parent, copies, dirs_exist_ok=True, symlinks=True)
        print(f"{self.name} came out otherwise: {copies}", file=sys.stderr, flush=True)
        return False

    def job(self, which: str) -> Any:
        from stages.contract import Checkpoints, Hardware

        folder = self.folder(which)
        shutil.rmtree(folder, ignore_errors=True)
        job = JOBS[self.name](folder, self.place)
        hardware = Hardware(gpus=0, threads=1, micro_batch=1, processes=self.processes, zero=self.zero, precision="fp32")
        if self.name.startswith("ppo"):
            # The processes then have different numbers of passes.
            hardware = hardware.model_copy(update={"micro_batch": 3})
        job = job.model_copy(update={"hardware": hardware, "checkpoints": Checkpoints(every_steps=2)})
        (job.folder / "job.json").write_text(job.model_dump_json())
        return job

    def uninterrupted(self) -> tuple[str, str]:
        """What the run leaves that nobody kills; how long its parts take is noted."""
        job, last = self.job("whole"), time.monotonic()
        attempt = start(job, self.processes, self.zero, 0)
        times: dict[str, list[float]] = {}
        sign = ""
        while following := attempt.sign():
            now = time.monotonic()
            times.setdefault(sign, []).append(now - last)
            sign, last = following, now
        attempt.join()
        times.setdefault(sign, []).append(time.monotonic() - last)
        if any(attempt.codes.values()):
            raise SystemExit(f"{self.name} does not run at all:\n{(job.folder / 'log.txt').read_text()[-3000:]}")
        self.spans, self.counts = {sign: sum(each) / len(each) for sign, each in times.items()}, Counter(attempt.seen)
        sealed = [json.loads(line) for line in (job.folder / "checkpoints.jsonl").read_text().splitlines()]
        self.spans["c"] = sum(line["blocked_seconds"] + line["overlapped_seconds"] for line in sealed) / len(sealed)
        return outcome(job)

    def killed(self) -> tuple[str, str]:
        """One run that is killed a few times and then left to its end; what it left."""
        job = self.job("killed")
        for _ in range(self.chance.randint(*KILLS_OF_A_RUN)):
            if not self.attempt(job):
                return outcome(job)
        attempt = start(job, self.processes, self.zero, 0)
        attempt.join()
        if any(attempt.codes.values()):
            raise SystemExit(f"{self.name} did not go on:\n{(job.folder / 'log.txt').read_text()[-3000:]}")
        return outcome(job)

    def attempt(self, job: Any) -> bool:
        """Start the stage and kill it; False if it came to its end before."""
        moments = [(sign, share) for sign, share in zip(MOMENTS.values(), SHARES, strict=True) if not sign or self.counts[sign]]
        sign = self.chance.choices([sign for sign, _ in moments], [share for _, share in moments])[0]
        left = self.counts[sign] - done(job) * self.counts[sign] // max(1, self.counts["s"])
        number = self.chance.randint(1, max(1, left * 2 // 3)) if sign else 0
        rank = self.chance.randrange(self.processes)
        unfinished = partials(job)
        attempt = start(job, self.processes, self.zero, rank)
        if not sign or attempt.wait_for(sign, number):
            time.sleep(self.chance.uniform(0.0, self.spans[sign]))
            attempt.kill([attempt.pids[rank]])
            time.sleep(self.chance.uniform(0.0, 0.3) if self.processes > 1 else 0.0)  # the others miss it; a launcher ends them
            attempt.kill(attempt.pids)
        attempt.join()
        if -signal.SIGKILL in attempt.codes.values():
            self.kills[landed(attempt.seen, bool(partials(job) - unfinished))] += 1
            return True
        if any(attempt.codes.values()):
            raise SystemExit(f"{self.name} did not go on:\n{(job.folder / 'log.txt').read_text()[-3000:]}")
        return False


def done(job: Any) -> int:
    """Steps of the newest checkpoint."""
    return max((int(path.name.removeprefix("step-")) for path in (job.folder / "checkpoints").glob("step-*")), default=0)


def partials(job: Any) -> set[int]:
    """Checkpoints that are not finished, each by a number of its own."""
    return {path.stat().st_ctime_ns for path in (job.folder / "checkpoints").glob(".partial-*")}


def landed(seen: str, unfinished: bool) -> str:
    """Where a kill came, by the signs before it and whether it left a checkpoint unfinished."""
    if unfinished and "c" in seen:
        return "checkpoint write"
    if "e" in seen:
        return "end"
    if seen.count("r") > seen.count("R"):
        return "rollout"
    return "step" if "s" in seen or "R" in seen else "start-up"


def outcome(job: Any) -> tuple[str, str]:
    """Digests of the weights that a stage left, and of the numbers that it recorded, but for times."""
    weights = hashlib.sha256()
    for file in sorted(job.artifact.glob("*.safetensors")):
        weights.update(file.read_bytes())
    timed = ("seconds", "tokens_per_second", "memory")
    lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{key: value for key, value in line.items() if not key.startswith(timed)} for line in lines]
    return weights.hexdigest(), hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
