"""The stages that `kill.py` kills: real ones, on data and models small enough that a whole stage takes a second or two."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 12
"""Optimizer steps of the stages on Trainer, or a few less."""
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills", "yes", "no"]
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}


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
    return ppo_job(folder, model_reward=True, kl=kl, steps=6, batch=8, evaluation_prompts=4, **changes)


JOBS: dict[str, Callable[[Path, Path], Any]] = {
    "pretrain": pretrain,
    "sft": sft,
    "sft with LoRA": lambda folder, place: sft(folder, place, adapter={**LORA, "dropout": 0.1}),
    "reward": reward,
    "reward with LoRA": lambda folder, place: reward(folder, place, adapter=LORA),
    "ppo": ppo,
    "ppo with LoRA": lambda folder, place: ppo(folder, place, adapter=LORA),
}
