"""Memory of PPO's players by how they share weights: one rollout and one update of each design, each in a process of its own.

    python benchmarks/players_memory.py

Prints the parameters of the model, the bytes of all weights and of the optimizers' state by counting, and the most memory that the process held above what it
held before the model was loaded (activations, gradients and the library's own copies included). On a CPU, fp32; the reward is a rule, so that no reward model counts.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

LORA = {"kind": "lora", "rank": 16}
DESIGNS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared-trunk": {"players": "shared-trunk"},
    "separate, policy with LoRA": {"adapter": LORA},
    "shared-trunk, policy with LoRA": {"players": "shared-trunk", "adapter": LORA},
    "shared-base (LoRA)": {"players": "shared-base", "adapter": LORA},
}
WORDS = ["one", "two", "three", "four", "five", "six"]


def prepare(folder: Path) -> None:
    from data.templates import TEMPLATES
    from stages.core.config import Llama
    from stages.core.models import new_llama
    from stages.tokenizer.run import trained

    source = random.Random(1)
    questions = [" ".join(source.choices(WORDS, k=6)) for _ in range(64)]
    tokenizer = trained(iter(questions), 300, TEMPLATES["turns"])
    new_llama(Llama(hidden_size=512, layers=6, heads=8, context=128), tokenizer, seed=1).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": question}) + "\n" for question in questions))


def measure(folder: Path, design: str) -> None:
    """One design, in this process; prints a line of JSON."""
    import torch

    from stages.contract import Hardware, Input, Job
    from stages.ppo import run as stage
    from stages.ppo.config import PPO

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = {
        "model": "policy",
        "rewards": [{"rule": "length:4"}],
        "prompts": [{"path": "prompts.jsonl"}],
        **{"steps": 1, "batch": 8, "minibatches": 1, "critic_warmup": 0, "evaluation_prompts": 1, "sampling": {"max_new_tokens": 16}},
        **DESIGNS[design],
    }
    inputs = {"model": Input(reference="policy", kind="causal-lm", path=folder / "policy", fingerprint="0")}
    hardware = Hardware(gpus=0, precision="fp32")
    files = {"prompts.0": [folder / "prompts.jsonl"]}
    seen: dict[str, Any] = {}
    build = stage.build_players

    def built(*arguments: Any) -> Any:
        seen["players"], how = build(*arguments)
        return seen["players"], how

    stage.build_players = built
    stage.save_artifact = lambda *_, **__: None  # what is measured is training
    with tempfile.TemporaryDirectory() as place:
        job = Job(stage="p", kind="ppo", folder=Path(place), seed=1, config=config, inputs=inputs, files=files, hardware=hardware)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        stage.run(job, PPO.model_validate(config), hardware)
        sys.stdout = sys.__stdout__
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    players = seen["players"]
    modules = [players.policy.module, players.critic.module, getattr(players.reference, "policy", players.reference)]
    # torch's own named_parameters: a shared base's modules count only what is theirs.
    tensors = {p.data_ptr(): p for module in modules for part in module.modules() for p in part._parameters.values() if p is not None}
    states = [state for player in (players.policy, players.critic) for state in player.optimizer.state.values()]
    moments = sum(t.numel() * t.element_size() for state in states for t in state.values() if torch.is_tensor(t))
    weights = sum(t.numel() * t.element_size() for t in tensors.values())
    print(json.dumps({"weights": weights / 2**20, "optimizers": moments / 2**20, "peak": peak / 2**10}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--design", choices=DESIGNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.design:
        measure(arguments.folder, arguments.design)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        print("| players | weights, MiB | optimizers, MiB | most held above the start, MiB |\n|---|---:|---:|---:|")
        for design in DESIGNS:
            done = subprocess.run(
                [sys.executable, __file__, "--folder", folder, "--design", design], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"| {design} | {found['weights']:.0f} | {found['optimizers']:.0f} | {found['peak']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
