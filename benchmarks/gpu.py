"""Measure the whole chain on one GPU at a realistic size: pretraining, SFT, reward model and PPO, in the precision that the GPU does fast.

    python benchmarks/gpu.py                          # 0.36 B parameters on one NVIDIA GPU; some ten minutes on an H100
    python benchmarks/gpu.py stages.policy.engine=vllm
    python benchmarks/gpu.py --small --device cpu     # a look at the script itself, in a minute

Prints a row a stage: tokens per second, model FLOPs utilisation (6 FLOPs for each weight and token learned, and 6 for each layer, width and
position attended to, over the device's dense bf16 peak), peak memory, and of PPO answers per second and the share of each step that is rollout.
The first fifth of each stage's steps is left out as warm-up. Data are the embedded world's; what is learned does not matter here.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PEAK = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "A10": 125e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
"""Dense bf16 FLOPs per second, of the vendors' data sheets."""
SIZES = {
    "large": {"hidden_size": 1024, "layers": 26, "heads": 16, "mlp_size": 2816, "context": 1024},
    "small": {"hidden_size": 64, "layers": 2, "heads": 4, "mlp_size": 128, "context": 256},
}
STEPS = {"large": (60, 16_384, 20, 128), "small": (6, 1_024, 3, 8)}
"""Steps of pretraining, tokens of a step, rollouts of PPO and answers of each."""


def recipe(size: str) -> dict[str, Any]:
    """The chain at a size."""
    steps, batch, rollouts, answers = STEPS[size]
    chats = 20_000 if size == "large" else 200
    optimizer = {"learning_rate": 1e-4}
    return {
        "name": f"gpu-{size}",
        "stages": {
            "world": {
                "kind": "world",
                "documents": 60_000 if size == "large" else 600,
                "chats": chats,
                "pairs": chats // 4,
                "prompts": 400,
            },
            "words": {"kind": "tokenizer", "vocab_size": 4096 if size == "large" else 512, "data": [source("stories")]},
            "base": {
                "kind": "pretrain",
                "tokenizer": "words",
                "model": SIZES[size],
                "data": [source("stories")],
                "tokens": steps * batch,
                "batch_tokens": batch,
                "optimizer": optimizer,
            },
            "chat": {"kind": "sft", "model": "base", "data": [source("chats")], "epochs": 1, "batch_tokens": batch, "optimizer": optimizer},
            "judge": {"kind": "reward", "model": "chat", "data": [source("pairs")], "epochs": 1, "batch_pairs": 64, "optimizer": optimizer},
            "policy": {
                "kind": "ppo",
                "model": "chat",
                "rewards": [{"model": "judge"}],
                "prompts": [source("prompts")],
                "steps": rollouts,
                "batch": answers,
                "critic_warmup": 1,
                "sampling": {"max_new_tokens": 256 if size == "large" else 16},
                "missing_eos_penalty": 0.0,
            },
        },
    }


def source(name: str) -> dict[str, str]:
    return {"stage": "world", "path": f"{name}.jsonl"}


def measured(lines: list[dict[str, Any]], answers: int) -> dict[str, float]:
    """Means over the steps after warm-up."""
    steps = [line for line in lines if "tokens_per_second" in line]
    kept = steps[len(steps) // 5 :]

    def mean(name: str) -> float:
        values = [line[name] for line in kept if name in line]
        return sum(values) / len(values) if values else float("nan")

    parts = {name: mean(f"seconds_{name}") for name in ("rollout", "experience", "update")}
    whole = sum(parts.values())
    return {
        "tokens per second": mean("tokens_per_second"),
        "peak GiB": max(line["memory_bytes"] for line in lines) / 2**30,
        "answers per second": answers / whole if whole == whole else float("nan"),
        "rollout share": parts["rollout"] / whole if whole == whole else float("nan"),
    }


def flops_per_token(shape: dict[str, int], parameters: int) -> float:
    """Of training: forward and backward (Kaplan et al. 2020, with causal attention over half of the context)."""
    return 6 * parameters + 6 * shape["layers"] * shape["hidden_size"] * shape["context"]


def device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_intermixed_args()
    size = "small" if options.small else "large"
    file = Path(f"gpu-{size}.yaml")
    file.write_text(json.dumps(recipe(size), indent=1))
    where = "hardware.gpus=0" if options.device == "cpu" else "hardware.gpus=1"
    subprocess.run([sys.executable, "-m", "pipeline", "run", str(file), where, *options.overrides], check=True, stdout=subprocess.DEVNULL)
    name = device_name(options.device)
    peak = next((flops for known, flops in PEAK.items() if known in name), float("nan"))
    print(
        f"\n{name}\n\n| stage | tokens per second | MFU | peak GiB | answers per second | rollout share |\n|---|---:|---:|---:|---:|---:|"
    )
    for stage in ("base", "chat", "judge", "policy"):
        folder = Path("runs", f"gpu-{size}", stage)
        parameters = json.loads((folder / "artifact" / "artifact.json").read_text())["parameters"]
        found = measured([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], STEPS[size][3])
        mfu = found["tokens per second"] * flops_per_token(SIZES[size], parameters) / peak if stage in ("base", "chat") else float("nan")
        cells = [found["tokens per second"], mfu, found["peak GiB"], found["answers per second"], found["rollout share"]]
        print(f"| {stage} ({parameters / 1e9:.2f} B) | " + " | ".join("" if value != value else f"{value:,.3g}" for value in cells) + " |")


if __name__ == "__main__":
    main()
