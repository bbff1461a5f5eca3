"""PPO against TRL 1.12, the newest release on PyPI with `trl.experimental.ppo`, and rollouts against transformers' `generate`.

    python benchmarks/ppo.py ../shared/data/preference/hh_harmless_base_test.jsonl.gz --environment ~/.cache/trl-1.12

The first call makes TRL's own environment in that folder. Both train the same models (policy, reference, reward model and critic, each of its own
weights) on the same prompts (those of the file with at most 128 tokens), with the same batch, minibatches, epochs and longest answer, on one thread in fp32; they are run in turn, and seconds of the
processor are counted, which other work on the machine hardly changes. The first update of each run warms up and is left out.

How far answers differ in length decides what padding costs, so there are two measurements: `long`, where hardly an answer ends before the longest
length, and `ragged`, where they end at random and fill about half of it. TRL pads both to the longest prompt and the longest answer.
"""

# ruff: noqa: E402 - memory is set up before torch is imported
import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from stages.__main__ import keep_memory

keep_memory()  # as a stage process does

import argparse
import json
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
from data.config import Source
from data.formats import Prompt
from data.records import read_records
from data.templates import TEMPLATES
from stages.contract import Hardware, Input, Job
from stages.core import metrics
from stages.core.config import Llama
from stages.core.generation import Transformers
from stages.core.models import load_tokenizer, new_llama
from stages.core.rewards import end_of_turn
from stages.ppo import watch
from stages.ppo.config import PPO
from stages.ppo.run import run
from stages.tokenizer.run import trained

SHAPE = Llama(hidden_size=192, layers=4, heads=4, context=256, tied_embeddings=False)
SIZES = {"batch": 64, "minibatches": 2, "epochs": 2, "max_new_tokens": 64}
LONGEST = 128
ENDS = {"long": 0.0, "ragged": 4.0}
"""Nats by which the end is likelier than the random weights make it."""


def prepare(file: Path, folder: Path, ends: float) -> dict[str, Any]:
    """Models and prompts on disk. Weights are random, and so are answers; their end is `ends` nats likelier than other tokens."""
    records = read_records([Source(path=str(file))], [[file]], Prompt).records
    texts = (message["content"] for record in records for message in record.messages)
    tokenizer = trained(texts, 2048, TEMPLATES["turns"])
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))  # TRL knows one end only
    policy = new_llama(SHAPE, tokenizer, seed=1)
    rendered = [(record.messages, render_prompt(tokenizer, record.messages)) for record in records]
    short = [(messages, ids) for messages, ids in rendered if len(ids) <= LONGEST][:512]
    end_likelier(policy, [ids for _, ids in short], tokenizer.eos_token_id, ends)
    config = new_llama(SHAPE, tokenizer, seed=2).config
    config.num_labels = 1
    torch.manual_seed(2)
    for name, model in (("policy", policy), ("judge", LlamaForSequenceClassification(config))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "judge" / "artifact.json").write_text('{"kind": "reward-model"}')
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": messages}) + "\n" for messages, _ in short))
    return {"policy": str(folder / "policy"), "judge": str(folder / "judge"), "prompts": [ids for _, ids in short], "file": str(prompts)}


@torch.no_grad()
def end_likelier(policy: Any, prompts: list[list[int]], end: int, nats: float) -> None:
    """Turn the head's row of the end token towards the mean last hidden state, so that its logit is `nats` higher on average."""
    hidden_TD = torch.cat([policy.model(torch.tensor([ids])).last_hidden_state[0] for ids in prompts[:64]])
    mean_D = hidden_TD.mean(0)
    policy.lm_head.weight[end] += nats * mean_D / mean_D.square().sum()


def ours(made: dict[str, Any], steps: int) -> float:
    """Samples per second of whole updates."""
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
    return SIZES["batch"] * len(lines) / whole


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
def rollouts(made: dict[str, Any]) -> tuple[float, float]:
    """Tokens per second of our engine and of transformers' `generate` on a rollout's prompts: answers' tokens up to their ends."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(made["policy"]).eval(), load_tokenizer(Path(made["policy"]))
    prompts, ends = made["prompts"][: SIZES["batch"]], sorted(end_ids(tokenizer))
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    engine = Transformers(model)

    def own(number: int) -> int:
        seeds = range(1000 * number, 1000 * number + len(prompts))
        answers = engine.generate(prompts, seeds=seeds, temperature=1.0, max_new_tokens=SIZES["max_new_tokens"], end_ids=ends)
        return sum(len(answer.ids) for answer in answers)

    def plain(number: int) -> int:
        torch.manual_seed(number)
        settings = {"do_sample": True, "top_k": 0, "max_new_tokens": SIZES["max_new_tokens"], "pad_token_id": tokenizer.pad_token_id}
        out = model.generate(ids, attention_mask=mask, eos_token_id=ends, **settings)[:, width:]
        return int((out != tokenizer.pad_token_id).sum())

    rates = {own: [0.0, 0.0], plain: [0.0, 0.0]}
    for number in range(4):
        for method, told in rates.items():
            began = time.process_time()
            tokens = method(number)
            if number:  # the first one warms up
                told[0] += tokens
                told[1] += time.process_time() - began
    return rates[own][0] / rates[own][1], rates[plain][0] / rates[plain][1]


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
    parser.add_argument("file", type=Path, help="preference pairs or prompts")
    parser.add_argument("--environment", type=Path, required=True, help="folder of TRL 1.12's environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    python = environment(arguments.environment.expanduser().absolute())
    torch.set_num_threads(1)
    for answers, ends in ENDS.items():
        print(f"{answers} answers", flush=True)
        compare(arguments, python, ends)


def compare(arguments: argparse.Namespace, python: Path, ends: float) -> None:
    samples, tokens = [], []
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(arguments.file.absolute(), Path(folder), ends)
        for number in range(arguments.rounds):
            mine = ours(made, arguments.steps)
            peer = max(theirs(made, arguments.steps, micro_batch, python) for micro_batch in (16, 32))
            rollout, plain = rollouts(made)
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
