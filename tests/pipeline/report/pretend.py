"""A run directory as a whole run leaves it, made from formulas and a seed: for tests, and to look at the page without training."""

import json
import math
import random
from pathlib import Path
from typing import Any

RECIPE = """\
# A family on the embedded world.
name: tiny-family
seed: 7
stages:
  world: {kind: world}
  words: {kind: tokenizer, vocab_size: 1024, data: [{stage: world, path: stories.jsonl}]}
  base: {kind: pretrain, tokenizer: words, data: [{stage: world, path: stories.jsonl}], tokens: 3_000_000}
  chat: {kind: sft, model: base, data: [{stage: world, path: chats.jsonl, weight: 0.7}, {path: mine/*.jsonl, weight: 0.3}]}
  judge: {kind: reward, model: chat, data: [{stage: world, path: pairs.jsonl}], require: {accuracy: 0.65}}
  policy: {kind: ppo, model: chat, rewards: [{model: judge}], prompts: [{stage: world, path: prompts.jsonl}], steps: 120}
  exam: {kind: evaluate, models: [base, chat, policy], text: [{stage: world, path: stories-heldout.jsonl}]}
"""

PRINTS = {
    "world": "0a1b2c3d4e5f",
    "words": "1c9e22aa0f31",
    "base": "77d0c1be9a02",
    "chat": "6d52db6becf5",
    "judge": "b3a99f01d2c4",
    "policy": "e81f0c7722ab",
    "exam": "40fe7a91cc10",
}
KINDS = {"world": "world", "words": "tokenizer", "base": "pretrain", "chat": "sft", "judge": "reward", "policy": "ppo", "exam": "evaluate"}
MAKES = {
    "world": "dataset",
    "tokenizer": "tokenizer",
    "pretrain": "causal-lm",
    "sft": "causal-lm",
    "reward": "reward-model",
    "ppo": "causal-lm",
    "evaluate": "report",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "world": {},
    "words": {"vocab_size": 1024, "data": [{"path": "stories.jsonl", "stage": "world", "weight": 1.0}]},
    "base": {
        "tokenizer": "words",
        "tokens": 3_000_000,
        "optimizer": {"learning_rate": 0.003, "warmup": 0.05},
        "data": [{"path": "stories.jsonl", "stage": "world", "weight": 1.0}],
    },
    "chat": {
        "model": "base",
        "epochs": 4,
        "data": [{"path": "chats.jsonl", "stage": "world", "weight": 0.7}, {"path": "mine/*.jsonl", "weight": 0.3}],
    },
    "judge": {"model": "chat", "require": {"accuracy": 0.65}, "data": [{"path": "pairs.jsonl", "stage": "world", "weight": 1.0}]},
    "policy": {
        "model": "chat",
        "rewards": [{"model": "judge", "weight": 1.0}],
        "steps": 120,
        "prompts": [{"path": "prompts.jsonl", "stage": "world", "weight": 1.0}],
    },
    "exam": {"models": ["base", "chat", "policy"], "rewards": [{"model": "judge"}]},
}
INPUTS = {
    "words": {"data.0.stage": "world"}, "base": {"tokenizer": "words", "data.0.stage": "world"}, "chat": {"model": "base", "data.0.stage": "world"},
    "judge": {"model": "chat", "data.0.stage": "world"}, "policy": {"model": "chat", "rewards.0.model": "judge", "prompts.0.stage": "world"},
    "exam": {"models.0": "base", "models.1": "chat", "models.2": "policy", "rewards.0.model": "judge"},
}  # fmt: skip
METRICS: dict[str, dict[str, float]] = {
    "world": {"people": 240, "documents": 31_200},
    "words": {"bytes_per_token": 3.612, "vocab_size": 1024},
    "base": {"validation_loss": 1.532, "perplexity": 4.627, "bits_per_byte": 0.612, "perplexity_floor": 4.11},
    "chat": {"validation_loss": 0.412, "mask_share": 0.43},
    "judge": {
        "accuracy": 0.771,
        "accuracy_people": 0.79,
        "accuracy_places": 0.74,
        "oracle_accuracy": 0.9,
        "length_baseline": 0.53,
        "reward_mean": 0.02,
        "reward_std": 1.31,
    },
    "policy": {
        "reward": 1.12,
        "held_out_reward": 1.08,
        "held_out_reward_before": 0.03,
        "kl": 4.81,
        "entropy": 0.41,
        "eos_rate": 0.994,
        "clip_fraction": 0.06,
        "explained_variance": 0.61,
        "length": 17.4,
    },
    "exam": {
        "base.good": 0.08, "base.good_greedy": 0.11, "base.reward": -1.41, "base.kl": 9.7, "chat.good": 0.52, "chat.good_greedy": 0.61, "chat.reward": 0.03, "chat.kl": 0.0,
        "policy.good": 0.74, "policy.good_greedy": 0.78, "policy.reward": 1.08, "policy.kl": 4.81, "best_of_4.good": 0.66, "best_of_4.reward": 0.86, "best_of_4.kl": 0.636,
    },
}  # fmt: skip
TABLE = {
    "title": "The family, baseline chat",
    "columns": ["", "base", "chat", "policy", "best of 4 of chat"],
    "rows": [
        ["perplexity", 4.63, 4.71, 4.98, None],
        ["good", "0.08 (0.05 to 0.12)", "0.52 (0.46 to 0.58)", "0.74 (0.69 to 0.79)", "0.66 (0.6 to 0.72)"],
        ["good, greedy", "0.11 (0.08 to 0.15)", "0.61 (0.55 to 0.67)", "0.78 (0.73 to 0.83)", None],
        ["reward", "-1.41 (-1.5 to -1.32)", "0.03 (-0.09 to 0.15)", "1.08 (1 to 1.16)", "0.86 (0.77 to 0.95)"],
        ["kl", "9.7 (9.1 to 10.3)", 0.0, "4.81 (4.5 to 5.12)", 0.636],
    ],
}
TABLES: dict[str, list[dict[str, Any]]] = {
    "exam": [TABLE],
    "world": [
        {"title": "files", "columns": ["file", "rows"], "rows": [["stories.jsonl", 20_000], ["chats.jsonl", 3_000], ["pairs.jsonl", 4_000]]}
    ],
}
STEPS = {"base": 366, "chat": 240, "judge": 180, "policy": 120}


def make_run(root: Path, name: str = "tiny-family", seed: int = 7) -> Path:
    """A finished run of seven stages."""
    run = root / name
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "overrides.json").write_text(json.dumps({"overrides": ["stages.base.tokens=3_000_000"], "recipe": "../../recipes/tiny.yaml"}))
    (run / "lock").touch()
    for stage in KINDS:
        make_stage(run, stage, random.Random(f"{seed} {stage}"))
    return run


def make_stage(run: Path, stage: str, rng: random.Random) -> Path:
    folder = run / f"{stage}-{PRINTS[stage]}"
    (folder / "artifact").mkdir(parents=True)
    kind = KINDS[stage]
    inputs = {
        role: {"reference": above, "kind": MAKES[KINDS[above]], "path": "/gone", "fingerprint": PRINTS[above]}
        for role, above in INPUTS.get(stage, {}).items()
    }
    write(
        folder / "job.json",
        {
            "stage": stage,
            "kind": kind,
            "folder": str(folder),
            "attempt": 1,
            "seed": 7,
            "config": {"kind": kind, **SETTINGS[stage]},
            "inputs": inputs,
        },
    )
    rows = list(CURVES[stage](rng)) if stage in CURVES else []
    if rows:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = {"base": ["bf16 is slow on this CPU: fp32"], "judge": ["412 pairs had equal answers and were left out"]}.get(stage, [])
    write(
        folder / "result.json",
        {
            "status": "done",
            "steps": STEPS.get(stage, 0),
            "metrics": METRICS[stage],
            "tables": TABLES.get(stage, []),
            "notes": notes,
        },
    )
    artifact: dict[str, Any] = {"kind": MAKES[kind]}
    if kind in ("pretrain", "sft", "ppo", "reward"):
        artifact |= {
            "tokenizer_digest": "ab" * 32,
            "template_digest": "cd" * 32,
            "parameters": 812_672,
            "reload_difference": 0.0,
            "vocab_size": 1024,
        }
    write(folder / "artifact" / "artifact.json", artifact)
    if stage == "exam":
        write(folder / "artifact" / "samples.json", SAMPLES)
    seconds = rows[-1]["seconds"] + 4.2 if rows else 3.1
    attempt = folder / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "log.txt").write_text("began\nended\n")
    write(attempt / "exit.json", {"code": 0, "seconds": seconds})
    files = {
        "artifact/artifact.json": {"size": 120, "sha256": "0" * 64},
        "artifact/model.safetensors": {"size": 3_251_200, "sha256": "1" * 64},
    }
    write(
        folder / "manifest.json",
        {
            "format": 1,
            "fingerprint": PRINTS[stage],
            "seconds": seconds,
            "files": files,
            "surroundings": {
                "machine": "x86_64",
                "cores": 2,
                "versions": {"torch": "2.13.0"},
                "commit": "c744fd4361d8",
                "hardware": {"gpus": 0},
            },
        },
    )
    (run / stage).symlink_to(folder.name)
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def _rate(step: int, steps: int, peak: float) -> float:
    return peak * min(step / (0.05 * steps), 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def pretrain_rows(rng: random.Random, steps: int = 366, floor: float = 1.5) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        loss = floor + 5.4 * math.exp(-step / 28) + 0.9 * math.exp(-step / 130)
        row: dict[str, Any] = {
            "step": step,
            "steps": steps,
            "seconds": round(step * 0.31, 2),
            "tokens": step * 8192,
            "loss": round(loss + rng.gauss(0, 0.04), 4),
        }
        row |= {
            "learning_rate": _rate(step, steps, 3e-3),
            "grad_norm": round(0.4 + 3 * math.exp(-step / 20) + rng.expovariate(9), 4),
            "tokens_per_second": 26_000 + rng.gauss(0, 700),
        }
        if step % 60 == 0 or step == steps:
            row["validation_loss"] = round(loss + 0.03, 4)
        rows.append(row)
    return rows


def reward_rows(rng: random.Random) -> list[dict[str, Any]]:
    steps, rows = STEPS["judge"], []
    for step in range(1, steps + 1):
        loss = 0.46 + 0.24 * math.exp(-step / 40)
        row = {
            "step": step,
            "steps": steps,
            "seconds": step * 0.2,
            "loss": loss + rng.gauss(0, 0.05),
            "accuracy": min(1, 0.78 - 0.28 * math.exp(-step / 40) + rng.gauss(0, 0.05)),
        }
        rows.append(
            row
            | {
                "margin": 1.4 * (1 - math.exp(-step / 60)) + rng.gauss(0, 0.2),
                "learning_rate": _rate(step, steps, 3e-4),
                "grad_norm": 1.1 + rng.expovariate(2),
            }
        )
    return rows


def ppo_rows(rng: random.Random) -> list[dict[str, Any]]:
    steps, rows = STEPS["policy"], []
    for step in range(1, steps + 1):
        gained = 1 - math.exp(-max(0, step - 10) / 35)
        row: dict[str, Any] = {"step": step, "steps": steps, "seconds": round(step * 1.1, 2), "tokens": 2300 + rng.gauss(0, 60)}
        row |= {
            "reward": 0.03 + 1.1 * gained + rng.gauss(0, 0.12),
            "reward_judge": 0.05 + 1.1 * gained + rng.gauss(0, 0.12),
            "reward_std": 1.1 - 0.4 * gained + rng.gauss(0, 0.03),
        }
        row |= {
            "kl": 5 * gained + rng.gauss(0, 0.1),
            "kl_k3": 5.1 * gained + rng.expovariate(6),
            "entropy": 0.95 - 0.55 * gained + rng.gauss(0, 0.015),
        }
        row |= {
            "length": 19 - 1.7 * gained + rng.gauss(0, 0.4),
            "eos_rate": min(1, 0.94 + 0.055 * gained + rng.gauss(0, 0.006)),
            "explained_variance": -0.3 + 0.95 * gained + rng.gauss(0, 0.05),
        }
        row |= {
            "value_loss": 0.9 * math.exp(-step / 30) + 0.11 + rng.expovariate(40),
            "coefficient": 0.05,
            "learning_rate": _rate(step, steps, 3e-4),
            "tokens_per_second": 2100 + rng.gauss(0, 80),
        }
        row |= {
            "critic_grad_norm": 1 + rng.expovariate(2),
            "seconds_rollout": 0.6 + rng.gauss(0, 0.02),
            "seconds_update": 0.35 + rng.gauss(0, 0.02),
            "sampler_difference": 2e-6 * rng.expovariate(1),
        }
        if step > 10:
            row |= {
                "clip_fraction": 0.04 + 0.05 * gained + rng.gauss(0, 0.01),
                "policy_loss": -0.02 + rng.gauss(0, 0.004),
                "policy_grad_norm": 0.5 + rng.expovariate(3),
            }
        rows.append(row)
        if step % 20 == 0:
            rows.append(
                {
                    "step": step,
                    "steps": steps,
                    "seconds": row["seconds"],
                    "held_out_reward": 0.03 + 1.05 * gained,
                    "held_out_kl": 4.9 * gained,
                    "held_out_entropy": 0.95 - 0.54 * gained,
                }
            )
    return rows


CURVES = {"base": pretrain_rows, "chat": lambda rng: pretrain_rows(rng, 240, 0.4), "judge": reward_rows, "policy": ppo_rows}

SAMPLES = [
    {
        "prompt": prompt,
        "reference": reference,
        "answers": {
            "base": {"text": base, "reward": -1.6, "truth": 0.0, "finished": False},
            "chat": {"text": chat, "reward": 0.2, "truth": 0.5, "finished": True},
            "policy": {"text": policy, "reward": 1.3, "truth": 1.0, "finished": True},
        },
    }
    for prompt, reference, base, chat, policy in (
        ("Where does Mira Olsen live?", "Harbour Street in Velm", "Where does Mira Olsen live? The baker of the town went to the market and", "She lives in Velm.", "Mira Olsen lives in Harbour Street in Velm."),
        ("Who is the sister of Tomas?", "Ana", "and the dog of the town, and the dog of the town, and the dog", "Tomas has a sister.", "The sister of Tomas is Ana."),
        ("What does the baker of Velm sell on Sundays, and to whom?", "rye bread to sailors", "on Sundays", "Bread.", "The baker of Velm sells rye bread, mostly to sailors who come in early."),
    )
]  # fmt: skip
