"""SFT: useful tokens a second and peak memory, this project against TRL's SFTTrainer, unpacked and with `packing="bfd"`. Same model, chats and steps.

    .venv/bin/python benchmarks/sft_speed.py [alpaca_en_demo.json] --chats 200 --hidden 192 --rounds 1

A useful token is one of a chat that is trained on, padding aside. Each way runs in a process of its own, fp32 on the CPU, one epoch over the same chats;
the rounds alternate. Ours is the SFT stage itself (it holds out 2 % of the chats), theirs an `SFTTrainer` that learns the same tokens. Seconds are CPU
seconds of the training loop, so that a busy machine changes little; memory is the process's largest resident set less what it held before the first step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WAYS = ("ours", "trl", "trl bfd")


def resident() -> float:
    """Megabytes held now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def chats_of(file: Path, count: int):
    from data.config import Source
    from data.formats import Chat
    from data.records import read_records

    return read_records([Source(path=str(file), limit=count)], [[file]], Chat).records


def prepared(options):
    """Chats that fit the context, the tokenizer and a new model; the same in every process."""
    from data.chat import render_all
    from data.templates import TEMPLATES
    from stages.core.config import Llama
    from stages.core.models import new_llama
    from stages.tokenizer.run import trained

    chats = chats_of(options.file, options.chats)
    tokenizer = trained((m["content"] for chat in chats for m in chat.messages), 4_096, TEMPLATES["turns"])
    shape = Llama(hidden_size=options.hidden, layers=4, heads=4, context=options.context)
    found = render_all(tokenizer, chats)
    kept = [place for place, tokens in zip(found.kept, found.tokens, strict=True) if len(tokens.ids) <= options.context]
    return (
        [chats[place] for place in kept],
        [found.tokens[found.kept.index(place)] for place in kept],
        tokenizer,
        new_llama(shape, tokenizer, 0),
    )


def ours(options) -> dict[str, float]:
    """The stage itself, from its settings to its artifact; timed is its training loop."""
    import stages.sft.run as stage
    from stages.contract import Checkpoints, Hardware, Input, Job
    from stages.core.artifacts import save_artifact

    _, _, tokenizer, model = prepared(options)
    folder, found = Path(tempfile.mkdtemp()), {}
    save_artifact(model, tokenizer, folder / "base", kind="causal-lm")
    settings = {
        "model": "base", "data": [{"path": options.file.name, "limit": options.chats}], "epochs": 1,
        "batch_tokens": options.rows * options.context, "optimizer": {"learning_rate": 1e-4},
    }  # fmt: skip
    job = Job(
        stage="chat", kind="sft", folder=folder / "chat", seed=1, config=settings, files={"data.0": [options.file]},
        inputs={"model": Input(reference="base", kind="causal-lm", path=folder / "base", fingerprint="none")},
        hardware=Hardware(gpus=0, threads=1), checkpoints=Checkpoints(every_steps=10**6, every_minutes=None),
    )  # fmt: skip
    job.folder.mkdir()
    del model
    train = stage.train

    def timed(trainer, tokenizer):
        before, began = resident(), time.process_time()
        steps = train(trainer, tokenizer)
        found.update(measured(before, time.process_time() - began, trainer.state.num_input_tokens_seen))
        return steps

    stage.train = timed
    stage.run(job, stage.SFT.model_validate(settings), job.hardware)
    return found


def trl(options, packing: bool) -> dict[str, float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chats, tokens, tokenizer, model = prepared(options)
    model.set_attn_implementation("sdpa" if not packing else model.config._attn_implementation)
    rows = Dataset.from_list([{"messages": [{"role": m["role"], "content": m["content"]} for m in chat.messages]} for chat in chats])
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), num_train_epochs=1, per_device_train_batch_size=options.rows * (1 if packing else options.pack), max_length=options.context,
        packing=packing, packing_strategy="bfd", assistant_only_loss=True, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        save_strategy="no", logging_steps=10**6, disable_tqdm=True, learning_rate=1e-4,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    before, began = resident(), time.process_time()
    trainer.train()
    return measured(before, time.process_time() - began, sum(len(chat.ids) for chat in tokens))


def measured(before: float, seconds: float, tokens: int) -> dict[str, float]:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"tokens_per_second": tokens / seconds, "megabytes": most - before, "in_all": most, "seconds": seconds, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "sft" / "alpaca_en_demo.json")
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--rows", type=int, default=4, help="packed rows of a step")
    parser.add_argument("--pack", type=int, default=3, help="chats that a packed row holds, so that unpacked steps are of the same size")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(ours(options) if options.way == "ours" else trl(options, options.way == "trl bfd")))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            output = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--way", way], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found[way].append(json.loads(output.splitlines()[-1]))
    median = {way: {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]} for way, rounds in found.items()}
    for way, values in median.items():
        speed, memory = (median["ours"][name] / values[name] for name in ("tokens_per_second", "megabytes"))
        print(
            f"{way:8} {values['tokens']:8.0f} tokens, {values['tokens_per_second']:8.0f} a second of CPU; {values['megabytes']:5.0f} MB, {values['in_all']:5.0f} in all; ours is {speed:.2f} times as fast at {memory:.2f} of the memory"
        )


if __name__ == "__main__":
    main()
