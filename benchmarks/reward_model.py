"""Reward-model training against TRL's RewardTrainer: the same model, token ids, batches, order and optimizer, so that losses are equal.

    python benchmarks/reward_model.py ../shared/data/preference/hh_harmless_base_test.jsonl.gz

Runs ours and theirs in turn, `--rounds` times, each from the same weights, on one thread in fp32, and counts seconds of the processor, which other work on
the machine hardly changes. Prints pairs per second of each round, the median of the paired ratios, and the largest difference of a step's loss.
"""

# ruff: noqa: E402 - memory is set up before torch is imported

import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")

from stages.__main__ import keep_memory

keep_memory()  # as a stage process does; theirs has it too

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from data.config import Source
from data.templates import TEMPLATES
from stages.adapters.start import begin
from stages.contract import Hardware, Job
from stages.core.config import Llama
from stages.core.models import choose_precision, load_start, load_tokenizer, new_llama, without_dropout
from stages.reward.config import Reward
from stages.reward.learning import Order
from stages.reward.model import teach
from stages.reward.pairs import Held, encode, read_preferences
from stages.reward.rows import Pair
from stages.reward.run import trainer_of
from stages.tokenizer.run import trained

SHAPE = Llama(hidden_size=192, layers=4, heads=4, context=512)
LEARNING_RATE = 1e-4


def prepare(file: Path, folder: Path, count: int) -> tuple[Path, list[Pair]]:
    """A base model with a tokenizer trained on the pairs' words, and the first `count` pairs that fit its context."""
    named, _ = read_preferences([Source(path=str(file))], [[file]])
    texts = [message["content"] for each in named for message in (*each.record.prompt, *each.record.chosen, *each.record.rejected)]
    tokenizer = trained(iter(texts), 2048, TEMPLATES["turns"])
    model = new_llama(SHAPE, tokenizer, seed=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pairs, _ = encode(tokenizer, named, SHAPE.context)
    return folder, pairs[:count]


def ours(base: Path, pairs: list[Pair], steps: int, batch: int) -> tuple[float, list[float]]:
    """Seconds of the processor, and the loss of every step."""
    config = Reward.model_validate(
        {
            "model": "base",
            "data": [{"path": "x"}],
            "epochs": steps * batch / len(pairs),
            "batch_pairs": batch,
            "centre": 0.01,
            "optimizer": {"learning_rate": LEARNING_RATE, "schedule": "constant", "warmup": 0},
        }
    )
    hardware = Hardware(gpus=0, precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            stage="judge", kind="reward", folder=Path(folder), seed=1, config={}, hardware=hardware, checkpoints={"every_steps": 10_000}
        )
        start = begin(load_start(base, hardware, None, "SEQ_CLS"), None, "SEQ_CLS", job=job, tokenizer=load_tokenizer(base))
        model = teach(without_dropout(start.model))
        trainer = trainer_of(model, Held(pairs, pairs[:8], [], []), job, config, choose_precision(hardware), lambda: False)
        trainer.args.logging_steps = trainer.state.logging_steps = 1
        began = time.process_time()
        trainer.train()
        seconds = time.process_time() - began
        losses = [json.loads(line)["loss"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return seconds, losses


def theirs(base: Path, pairs: list[Pair], steps: int, batch: int, micro: int, tokenizer: object) -> tuple[float, list[float]]:
    """The same by TRL, in the same order of pairs, `micro` of them in a forward pass."""
    order = Order(pairs, count=steps * batch, seed=1)
    rows = [{"chosen_ids": order[i].chosen, "rejected_ids": order[i].rejected} for i in range(len(order))]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)  # as ours begins
    with tempfile.TemporaryDirectory() as folder:
        settings = RewardConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            max_grad_norm=1.0,
            center_rewards_coefficient=0.01,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=copy.deepcopy(tokenizer)
        )
        began = time.process_time()
        trainer.train()
        seconds = time.process_time() - began
    return seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="preference pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="pairs of an optimizer step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base, pairs = prepare(arguments.file, Path(folder), 1_000)
        tokenizer = load_tokenizer(base)
        ours(base, pairs, 2, arguments.batch)
        theirs(base, pairs, 2, arguments.batch, arguments.batch, tokenizer)
        ratios, count = [], arguments.steps * arguments.batch
        print(f"{count} pairs a run, {arguments.batch} a step; pairs per second of the processor, one thread, fp32")
        for number in range(arguments.rounds):
            mine, my_losses = ours(base, pairs, arguments.steps, arguments.batch)
            # Smaller forward passes pad less: theirs counts as its better one.
            both = [theirs(base, pairs, arguments.steps, arguments.batch, micro, tokenizer) for micro in (arguments.batch, 4)]
            ratios.append(min(seconds for seconds, _ in both) / mine)
            difference = max(abs(a - b) for _, losses in both for a, b in zip(my_losses, losses, strict=True))
            rates = ", ".join(f"{count / seconds:.2f}" for seconds, _ in both)
            print(
                f"round {number + 1}: ours {count / mine:.2f}, TRL {rates} ({arguments.batch} or 4 pairs in a pass), "
                f"ratio {ratios[-1]:.2f}, largest loss difference {difference:.1e}",
                flush=True,
            )
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
