"""Kill a stage with SIGKILL again and again, go on with it, and compare the bits of its weights with those of a run that nobody killed.

    python -m benchmarks.kill --rounds 25                                 every stage, one process
    python -m benchmarks.kill --rounds 25 --stages sft ppo --processes 2 --zero 3

A round is one kill. Each is of one of three kinds, in turn: at a random moment; while a checkpoint is being written (its folder still has its
temporary name); and, for PPO, between the words of a rollout and their rewards. Which, and when, follow from `--seed`. A stage is killed in
most of its attempts, until one of them reaches the end; then the next job begins. Stages are those of the tests, small enough that a round costs a second:
they are forked from one process that has loaded torch, and go through `stages.__main__` as all do.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = 12
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills", "yes", "no"]
PATIENCE = 300.0
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}
MOMENTS = ("any moment", "checkpoint write", "rollout")


def main(arguments: list[str] | None = None) -> int:
    options = read(arguments)
    os.environ.update(
        OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1", ACCELERATE_USE_CPU="true"
    )  # as the orchestrator sets them
    if options.zero:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # before anything looks whether DeepSpeed is wanted
    load(options.stages)
    lines = []
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        for name in options.stages:
            trial = Trial(name, Path(place), options.processes, options.zero, random.Random(f"{options.seed} {name}"))
            lines.append(trial.run(options.rounds))
            if not options.json:
                print(row(lines[-1]), flush=True)
    print(json.dumps(lines) if options.json else "\n".join(["", HEAD, *map(row, lines)]))
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
    "| stage | processes | kills | at any moment | in a checkpoint write | in a rollout | runs finished | equal | seconds |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def row(line: dict[str, Any]) -> str:
    where = f"{line['processes']}" + (f", ZeRO-{line['zero']}" if line["zero"] else "")
    kinds = " | ".join(str(line["by"].get(moment, 0)) for moment in MOMENTS)
    return f"| {line['stage']} | {where} | {line['kills']} | {kinds} | {line['finished']} | {line['equal']} | {line['seconds']:.0f} |"


def load(names: list[str]) -> None:
    """Imports what the stages need, once, before anything is forked."""
    from stages.adapters import building  # noqa: F401

    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        import deepspeed  # noqa: F401


# The stages ------------------------------------------------------------------------------------------------------------------------------


def chats(count: int) -> list[dict[str, Any]]:
    source = random.Random(8)

    def say() -> str:
        return " ".join(source.choices(WORDS, k=source.randint(2, 8)))

    return [{"messages": [{"role": "user", "content": say()}, {"role": "assistant", "content": say()}]} for _ in range(count)]


def texts(count: int) -> list[dict[str, Any]]:
    source = random.Random(7)
    return [{"text": " ".join(source.choices(WORDS, k=source.randint(4, 20)))} for _ in range(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    source = random.Random(9)

    def say() -> str:
        return " ".join(source.choices(WORDS, k=source.randint(1, 6)))

    return [{"prompt": say(), "chosen": f"yes {say()}", "rejected": f"no {say()}"} for _ in range(count)]


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return file


def base(folder: Path) -> Path:
    """A tokenizer with a chat template and an untrained model, made once."""
    from tests.stages.tiny import causal_lm, saved, tokenizer_of

    if not (folder / "base").exists():
        tokenizer = tokenizer_of(WORDS)
        saved(causal_lm(tokenizer, context=64), tokenizer, folder / "base")
    return folder / "base"


def pretrain(folder: Path, place: Path) -> Any:
    from tests.stages.tiny import job_of

    config = {"model": "base", "data": [{"path": "x"}], "tokens": STEPS * 128, "batch_tokens": 128, "held_out": 0.1}
    config |= {"optimizer": {"learning_rate": 1e-2}}
    return job_of(
        folder,
        "pretrain",
        config,
        inputs={"model": ("causal-lm", base(place))},
        files={"data.0": [written(place / "texts.jsonl", texts(120))]},
    )


def sft(folder: Path, place: Path, **changes: Any) -> Any:
    from tests.stages.tiny import job_of

    config = {"model": "base", "data": [{"path": "x"}], "batch_tokens": 128, "epochs": 1.0, "held_out": 0.1}
    config |= {"optimizer": {"learning_rate": 1e-2}} | changes
    return job_of(
        folder, "sft", config, inputs={"model": ("causal-lm", base(place))}, files={"data.0": [written(place / "chats.jsonl", chats(120))]}
    )


def reward(folder: Path, place: Path, **changes: Any) -> Any:
    from tests.stages.tiny import job_of

    config = {"model": "base", "data": [{"path": "x"}], "batch_pairs": 8, "epochs": 1.0, "held_out": 0.1}
    config |= {"optimizer": {"learning_rate": 1e-2}} | changes
    return job_of(
        folder,
        "reward",
        config,
        inputs={"model": ("causal-lm", base(place))},
        files={"data.0": [written(place / "pairs.jsonl", pairs(100))]},
    )


def ppo(folder: Path, place: Path, **changes: Any) -> Any:
    from tests.stages.ppo.small import ppo_job

    kl = {"coefficient": 0.1, "target": 0.05, "horizon": 64}  # adaptive: its state must come back too
    return ppo_job(folder, model_reward=True, kl=kl, steps=8, **changes)


JOBS: dict[str, Callable[[Path, Path], Any]] = {
    "pretrain": pretrain,
    "sft": sft,
    "sft with LoRA": lambda folder, place: sft(folder, place, adapter={**LORA, "dropout": 0.1}),
    "reward": reward,
    "reward with LoRA": lambda folder, place: reward(folder, place, adapter=LORA),
    "ppo": ppo,
    "ppo with LoRA": lambda folder, place: ppo(folder, place, adapter=LORA),
}


# Attempts --------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """The forked processes of one attempt."""

    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

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

    def join(self, patience: float = PATIENCE) -> None:
        """Wait for all; those that miss a killed one for too long are killed as well, as a launcher would."""
        deadline = time.monotonic() + patience
        while self.poll():
            if time.monotonic() > deadline:
                self.kill(self.pids)
            time.sleep(0.002)


def start(job: Any, processes: int, zero: int, in_rollout: int | None) -> Attempt:
    """Fork the processes of a stage. `in_rollout`: the rollout after whose words the first process kills itself."""
    port = str(random.SystemRandom().randrange(20_000, 60_000))
    return Attempt([fork(job, rank, processes, zero, port, in_rollout) for rank in range(processes)])


def fork(job: Any, rank: int, processes: int, zero: int, port: str, in_rollout: int | None) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
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
        if in_rollout is not None and rank == 0:
            die_in_rollout(in_rollout)
        from stages.__main__ import main as stage

        code = stage([str(job.folder / "job.json")])
    finally:
        sys.stdout.flush()
        os._exit(code)


def die_in_rollout(number: int) -> None:
    """Kill this process in its rollout of that number, after the words and before the rewards."""
    from stages.core.rewards import Rewards

    score, calls = Rewards.score, [0]

    def killed(self: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(self, *arguments, **named)

    Rewards.score = killed  # type: ignore[method-assign]


@dataclass
class Trial:
    """One stage, killed until it was killed often enough."""

    name: str
    place: Path
    processes: int
    zero: int
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)

    def run(self, rounds: int) -> dict[str, Any]:
        began = time.monotonic()
        whole, seconds = self.uninterrupted()
        finished = equal = 0
        while self.kills.total() < rounds:
            finished += 1
            equal += self.killed(seconds) == whole
        return {
            "stage": self.name, "processes": self.processes, "zero": self.zero, "kills": self.kills.total(), "by": dict(self.kills),
            "finished": finished, "equal": equal, "sha256": whole[0], "seconds": time.monotonic() - began,
        }  # fmt: skip

    def job(self, which: str) -> Any:
        from stages.contract import Checkpoints, Hardware

        folder = self.place / self.name.replace(" ", "-") / which / "stage"
        shutil.rmtree(folder, ignore_errors=True)
        job = JOBS[self.name](folder, self.place)
        hardware = Hardware(gpus=0, threads=1, micro_batch=1, processes=self.processes, zero=self.zero, precision="fp32")
        job = job.model_copy(update={"hardware": hardware, "checkpoints": Checkpoints(every_steps=2)})
        (folder / "job.json").write_text(job.model_dump_json())
        return job

    def uninterrupted(self) -> tuple[tuple[str, str], float]:
        job, began = self.job("whole"), time.monotonic()
        attempt = start(job, self.processes, self.zero, None)
        attempt.join()
        if any(attempt.codes.values()):
            raise SystemExit(f"{self.name} does not run at all:\n{(job.folder / 'log.txt').read_text()[-3000:]}")
        return outcome(job), time.monotonic() - began

    def killed(self, seconds: float) -> tuple[str, str]:
        """One run that is killed in every attempt until one of them reaches its end; what it left."""
        job = self.job("killed")
        while True:
            moment = self.chance.choice([*(MOMENTS if self.name.startswith("ppo") else MOMENTS[:2]), "none"])
            attempt = start(job, self.processes, self.zero, self.chance.randrange(6) if moment == "rollout" else None)
            if moment in MOMENTS[:2]:
                self.shoot(job, attempt, moment, seconds)
            attempt.join(PATIENCE if moment != "rollout" or self.processes == 1 else 20.0)
            if -signal.SIGKILL in attempt.codes.values():
                writing = bool(list((job.folder / "checkpoints").glob(".partial-*")))
                self.kills["checkpoint write" if writing else "any moment" if moment == "checkpoint write" else moment] += 1
            elif any(attempt.codes.values()):
                raise SystemExit(f"{self.name} did not go on:\n{(job.folder / 'log.txt').read_text()[-3000:]}")
            else:
                return outcome(job)

    def shoot(self, job: Any, attempt: Attempt, moment: str, seconds: float) -> None:
        """Kill one process of the attempt, unless it ends before."""
        victim = self.chance.choice(attempt.pids)
        deadline = time.monotonic() + self.chance.uniform(0.0, 1.2 * seconds)
        while attempt.poll() and (moment == "checkpoint write" or time.monotonic() < deadline):
            if (
                moment == "checkpoint write"
                and time.monotonic() > deadline - seconds
                and any((job.folder / "checkpoints").glob(".partial-*"))
            ):
                time.sleep(self.chance.uniform(0.0, 0.004))
                break
            time.sleep(0.0005 if moment == "checkpoint write" else 0.005)
        attempt.kill([victim])
        if self.processes > 1:  # the others miss it; a launcher would end them
            time.sleep(0.2)
            attempt.kill(attempt.pids)


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
