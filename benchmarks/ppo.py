"""PPO against TRL 1.12, the newest release on PyPI with `trl.experimental.ppo`, and rollouts against transformers' `generate`.

    python benchmarks/ppo.py --environment ~/.cache/trl-1.12

The first call makes TRL's own environment in that folder. Both train the same models (policy, reference, reward model and critic, each of its own
weights) on the same prompts, with the same batch, minibatches, epochs and longest answer, on one thread in fp32; they are run in turn, and seconds of the
processor are counted, which other work on the machine hardly changes. The first update of each run warms up and is left out.
"""

# ruff: noqa: E402 - memory is set up before torch is imported
import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from stages.__main__ import keep_memory

keep_memory()  # as a stage process does

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from data.chat import end_ids, render_prompt
from data.templates import TEMPLATES
from stages.contract import Hardware, Input, Job
from stages.core import metrics
from stages.core.config import Llama
from stages.core.models import load_tokenizer, new_llama
from stages.core.rewards import end_of_turn
from stages.ppo import watch
from stages.ppo.config import PPO
from stages.ppo.run import run
from stages.tokenizer.run import trained

SHAPE = Llama(hidden_size=128, layers=4, heads=4, context=256, tied_embeddings=False)
SIZES = {"batch": 64, "minibatches": 2, "epochs": 2, "max_new_tokens": 64}
WORDS = [a + b for a in ("ba", "de", "fi", "go", "lu", "ma", "ne", "ri", "so", "tu") for b in ("l", "m", "n", "r", "s")]


def prepare(folder: Path) -> dict[str, Any]:
    """Models and prompts on disk. Weights are random, and so are answers."""
    source = random.Random(1)
    questions = [" ".join(source.choices(WORDS, k=source.randint(8, 24))) for _ in range(512)]
    tokenizer = trained(iter(questions), 300, TEMPLATES["turns"])
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))  # TRL knows one end only
    policy = new_llama(SHAPE, tokenizer, seed=1)
    with torch.no_grad():  # the end likelier, so that answers are ragged
        policy.lm_head.weight[tokenizer.eos_token_id] *= 2.0
    config = new_llama(SHAPE, tokenizer, seed=2).config
    config.num_labels = 1
    torch.manual_seed(2)
    for name, model in (("policy", policy), ("judge", LlamaForSequenceClassification(config))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "judge" / "artifact.json").write_text('{"kind": "reward-model"}')
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in questions))
    ids = [render_prompt(tokenizer, [{"role": "user", "content": question}]) for question in questions]
    return {"policy": str(folder / "policy"), "judge": str(folder / "judge"), "prompts": ids, "file": str(prompts)}


def ours(made: dict[str, Any], steps: int) -> tuple[float, float]:
    """Samples per second of whole updates, tokens per second of rollouts."""
    watch.perf_counter = time.process_time  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        config = {
            **{name: value for name, value in SIZES.items() if name != "max_new_tokens"},
            "model": "policy",
            "rewards": [{"model": "judge"}],
            "prompts": [{"path": "prompts.jsonl"}],
            "held_out": 0.01,
            "steps": steps,
            "critic_warmup": 0,
            "evaluate_every": 10_000,
            "evaluation_prompts": 1,
            "sampling": {"max_new_tokens": SIZES["max_new_tokens"]},
        }
        inputs = {
            "model": Input(reference="policy", kind="causal-lm", path=made["policy"], fingerprint="0"),
            "rewards.0.model": Input(reference="judge", kind="reward-model", path=made["judge"], fingerprint="0"),
        }
        hardware = Hardware(gpus=0, precision="fp32")
        files = {"prompts.0": [Path(made["file"])]}
        job = Job(stage="p", kind="ppo", folder=Path(folder), seed=1, config=config, inputs=inputs, files=files, hardware=hardware)
        run(job, PPO.model_validate(config), hardware)
        lines = [line for line in metrics.read(job.folder / "metrics.jsonl") if "reward" in line][1:]
    phases = ("seconds_rollout", "seconds_experience", "seconds_update")
    whole = sum(line[phase] for line in lines for phase in phases)
    print(f"    ours: mean length {statistics.mean(line['length'] for line in lines):.1f}", flush=True)
    tokens = sum(line["length"] for line in lines) * SIZES["batch"]
    return SIZES["batch"] * len(lines) / whole, tokens / sum(line["seconds_rollout"] for line in lines)


def theirs(made: dict[str, Any], steps: int, micro_batch: int, python: Path) -> float:
    """TRL's samples per second."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps({**made, **SIZES, "steps": steps, "micro_batch": micro_batch, "folder": folder}))
        peer = Path(__file__).with_name("ppo_trl.py")
        done = subprocess.run([python, peer, file], capture_output=True, text=True, cwd=folder, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    seconds = json.loads(results[0].removeprefix("RESULT "))
    return SIZES["batch"] * len(seconds) / sum(seconds)


@torch.no_grad()
def generated(made: dict[str, Any]) -> float:
    """Tokens per second of transformers' `generate` on a rollout's prompts: answers' tokens up to their ends, as ours are counted."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(made["policy"]).eval(), load_tokenizer(Path(made["policy"]))
    prompts = made["prompts"][: SIZES["batch"]]
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    tokens, seconds = 0, 0.0
    for number in range(3):
        torch.manual_seed(number)
        began = time.process_time()
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=SIZES["max_new_tokens"],
            eos_token_id=sorted(end_ids(tokenizer)),
            pad_token_id=tokenizer.pad_token_id,
        )
        if number:
            seconds += time.process_time() - began
            tokens += int((out[:, width:] != tokenizer.pad_token_id).sum())
    return tokens / seconds


def environment(folder: Path) -> Path:
    """The Python of TRL 1.12's environment, made where it is not there yet."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = ["trl==1.12.0", "transformers==5.23.0", f"torch=={torch.__version__.partition('+')[0]}"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="folder of TRL 1.12's environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    python = environment(arguments.environment.expanduser().absolute())
    torch.set_num_threads(1)
    samples, tokens = [], []
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder))
        for number in range(arguments.rounds):
            mine, rollout = ours(made, arguments.steps)
            peer = max(theirs(made, arguments.steps, micro_batch, python) for micro_batch in (16, 32))
            plain = generated(made)
            samples.append(mine / peer)
            tokens.append(rollout / plain)
            print(
                f"round {number + 1}: samples/s ours {mine:.1f}, TRL {peer:.1f}, ratio {samples[-1]:.2f}; "
                f"rollout tokens/s ours {rollout:.0f}, generate {plain:.0f}, ratio {tokens[-1]:.2f}",
                flush=True,
            )
    print(f"median ratios: samples {statistics.median(samples):.2f}, rollout tokens {statistics.median(tokens):.2f}")


if __name__ == "__main__":
    main()
