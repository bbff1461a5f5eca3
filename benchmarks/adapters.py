"""What adapters cost: parameters, files and optimizer state of each kind, and the memory of PPO's players.

    python benchmarks/adapters.py            prints both tables, as docs/adapters.md has them (about two CPU minutes)

Measured on a new LLaMA of random weights: memory does not depend on what they say. Every way to hold PPO's players is built by the stage's own
functions in a process of its own; counted are the bytes of all its tensors, each storage once, and the growth of the process's resident memory.
"""

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

SHAPE = {"hidden_size": 512, "layers": 8, "heads": 8, "mlp_size": 1408, "context": 256}
KINDS: dict[str, dict[str, Any]] = {
    "LoRA, rank 16, all linear layers": {"kind": "lora"},
    "LoRA, rank 16, attention": {"kind": "lora", "targets": "attention"},
    "rsLoRA, rank 64": {"kind": "lora", "rank": 64, "rslora": True},
    "DoRA, rank 16": {"kind": "lora", "dora": True},
    "IA3": {"kind": "ia3"},
    "prefix, 16 tokens": {"kind": "prefix", "hand_over": "continue"},
    "prefix, 16 tokens, projection": {"kind": "prefix", "projection": True, "hand_over": "continue"},
    "P-tuning, 16 tokens": {"kind": "p-tuning", "hand_over": "continue"},
    "prompt, 16 tokens": {"kind": "prompt", "hand_over": "continue"},
}
WAYS: dict[str, dict[str, Any]] = {
    "four models (full weights)": {"judge": "judge-whole"},
    "LoRA policy, reference by switching off": {"judge": "judge-whole", "adapter": {"kind": "lora", "hand_over": "stack"}},
    "`players: shared-base`, judge whole": {
        "judge": "judge-whole",
        "adapter": {"kind": "lora", "hand_over": "stack"},
        "players": "shared-base",
    },
    "`players: shared-base`, judge an adapter": {
        "judge": "judge",
        "adapter": {"kind": "lora", "hand_over": "stack"},
        "players": "shared-base",
    },
}
MIB = 1 << 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        make(run)
        print(kinds(run), players(run), sep="\n\n", flush=True)


def make(run: Path) -> None:
    """A base, and a reward model on it: as an adapter, and whole."""
    from data.templates import TEMPLATES
    from stages.adapters.config import settings_of
    from stages.adapters.start import begin
    from stages.contract import Hardware
    from stages.core.artifacts import save_artifact
    from stages.core.config import Llama
    from stages.core.models import load_start, new_llama
    from stages.tokenizer.run import trained

    source = random.Random(0)
    texts = [" ".join("".join(source.choices("abcdefghij", k=source.randint(2, 6))) for _ in range(30)) for _ in range(4000)]
    tokenizer = trained(texts, 4096, TEMPLATES["turns"])
    save_artifact(new_llama(Llama(**SHAPE), tokenizer, 0), tokenizer, artifact(run, "base"), kind="causal-lm")
    for name, policy in (("judge", "stack"), ("judge-whole", "merge")):
        job, own = job_of(run, name, "reward", {}), settings_of({"kind": "lora", "hand_over": policy})
        start = begin(load_start(artifact(run, "base"), Hardware(gpus=0), own, "SEQ_CLS"), own, "SEQ_CLS", job=job, tokenizer=tokenizer)
        save_artifact(start.model, tokenizer, job.artifact, kind="reward-model", kept=start.kept, reward_mean=0.0, reward_std=1.0)


def kinds(run: Path) -> str:
    """Trained parameters, the adapter's file, and what training holds for it: gradients and both moments of Adam."""
    import torch

    from stages.adapters.building import add_adapter, counted
    from stages.adapters.config import settings_of
    from stages.adapters.prompts import hidden_states
    from stages.contract import Hardware
    from stages.core.config import Optimizer
    from stages.core.models import load_causal_lm
    from stages.core.parity import backbone
    from stages.core.schedules import adamw

    rows = []
    ids = torch.randint(10, 1000, (1, 128))
    for label, settings in {"all weights": None, **KINDS}.items():
        model = load_causal_lm(artifact(run, "base"), Hardware(gpus=0))
        if settings is not None:
            model = add_adapter(model, settings_of(settings), "CAUSAL_LM")
        trained, total = counted(model)
        optimizer = adamw([model], Optimizer(learning_rate=1e-3))
        hidden_states(model, backbone(model), ids).square().mean().backward()
        optimizer.step()
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
        moments = sum(t.numel() * t.element_size() for state in optimizer.state.values() for t in state.values())
        base = total - (trained if settings else 0)
        rows.append(
            [label, f"{trained:,}", f"{trained / base:.2%}", f"{file_of(model, settings) / MIB:.2f}", f"{(gradients + moments) / MIB:.1f}"]
        )
        del model, optimizer
        gc.collect()
    return table(["kind", "parameters that train", "of the base's", "file, MiB", "gradients and Adam, MiB"], rows)


def file_of(model: Any, settings: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder) if settings is None else model.save_pretrained(folder, save_embedding_layers=False)
        return sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))


def players(run: Path) -> str:
    rows = []
    for label in WAYS:
        argv = [sys.executable, __file__, str(run), label]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        model = found["model"]
        rows.append(
            [
                label,
                *(f"{found[name] / MIB:.1f}" for name in ("tensors", "own", "resident")),
                f"{(found['tensors'] - found['own']) / model:.2f}",
            ]
        )
    return table(
        ["players", "tensors, MiB", "of these adapters and heads, MiB", "growth of resident memory, MiB", "models' worth of base weights"],
        rows,
    )


def measure(run: Path, label: str) -> None:
    """Build all players of a run of PPO in this process and print what they hold."""
    import psutil
    import torch

    from stages.adapters.judge import judge_on
    from stages.adapters.start import begin
    from stages.contract import Hardware
    from stages.core.models import load_start, load_tokenizer
    from stages.core.rewards import build_rewards
    from stages.ppo.config import PPO
    from stages.ppo.ranks import Ranks
    from stages.ppo.run import build_players

    way = WAYS[label]
    more = {"adapter": way.get("adapter"), "players": way.get("players", "separate")}
    job = job_of(run, "policy", "ppo", more, judge=way["judge"])
    config = PPO.model_validate(job.config)
    import peft  # noqa: F401 - so that its own size is not counted

    tokenizer, hardware = load_tokenizer(artifact(run, "base")), Hardware(gpus=0)
    gc.collect()
    before = psutil.Process().memory_info().rss
    model = load_start(artifact(run, "base"), hardware, config.adapter, "CAUSAL_LM")
    start = begin(model, config.adapter, "CAUSAL_LM", job=job, tokenizer=tokenizer)
    shared = config.players == "shared-base"
    rewards = build_rewards(config.rewards, job, tokenizer, hardware, on_base=lambda path: judge_on(start, path) if shared else None)
    made, _ = build_players(job, config, hardware, start, tokenizer, Ranks())
    modules = [made.policy.module, made.critic.module, made.reference, rewards.parts[0][2].model]
    for module in modules:  # weights lie in mapped files until they are read
        for parameter in torch.nn.Module.parameters(module) if isinstance(module, torch.nn.Module) else ():
            parameter.detach().sum()
    gc.collect()
    resident = psutil.Process().memory_info().rss - before
    storages: dict[int, tuple[int, bool]] = {}
    for module in modules:
        if isinstance(module, torch.nn.Module):
            for name, parameter in torch.nn.Module.named_parameters(module):
                adapter = "lora_" in name or name.startswith(("head.", "score."))
                storages[parameter.data_ptr()] = (parameter.numel() * parameter.element_size(), adapter)
    size = sum(file.stat().st_size for file in artifact(run, "base").glob("*.safetensors"))
    own = sum(size for size, adapter in storages.values() if adapter)
    print(json.dumps({"tensors": sum(size for size, _ in storages.values()), "own": own, "resident": resident, "model": size}))


def job_of(run: Path, name: str, kind: str, more: dict[str, Any], judge: str | None = None) -> Any:
    from stages.contract import Hardware, Input, Job

    inputs = {"model": Input(reference="base", kind="causal-lm", path=artifact(run, "base"), fingerprint="0")}
    config: dict[str, Any] = {"kind": kind, "model": "base", **more}
    if judge is not None:
        config |= {"rewards": [{"model": judge}], "prompts": [{"path": "x"}], "steps": 20}
        inputs["rewards.0.model"] = Input(reference=judge, kind="reward-model", path=artifact(run, judge), fingerprint="0")
    return Job(stage=name, kind=kind, folder=run / f"{name}-0", seed=0, config=config, inputs=inputs, hardware=Hardware(gpus=0))


def artifact(run: Path, name: str) -> Path:
    return run / f"{name}-0" / "artifact"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else main()
