"""Tokenising and preparing text: this project's way to packed rows' token files, against `datasets.map` with the same fast tokenizer. One core.

    taskset -c 0 .venv/bin/python benchmarks/tokenising.py [FILE ...] --megabytes 20 --rounds 3

Both begin with the same texts in memory and end with ids on disk, EOS at the end of each document: ours in a token file (uint16), theirs in an Arrow
file as `datasets.map(batched=True)` writes it, caches off. Ids are compared and must be equal. The rounds alternate; CPU seconds of the process are
counted, so that a busy machine changes little. Without files, the public ones in ../shared/data are taken, over and over up to the size asked for.
"""

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from datasets import Dataset, disable_caching  # noqa: E402

from data.config import Source  # noqa: E402
from data.formats import Text  # noqa: E402
from data.prepared import text_tokens  # noqa: E402
from data.records import read_records  # noqa: E402
from data.sources import resolve  # noqa: E402
from data.templates import TEMPLATES  # noqa: E402
from data.written import write_lines  # noqa: E402
from stages.tokenizer.run import trained  # noqa: E402

FILES = ["pretrain/c4_demo.jsonl", "pretrain/wikitext2-valid.txt", "sft/alpaca_en_demo.json"]


def texts_of(files: list[Path], megabytes: float) -> list[str]:
    sources = [Source(path=str(file)) for file in files]
    found = [record.text for record in read_records(sources, [resolve(source, ROOT) for source in sources], Text).records]
    texts, size = [], 0
    for number in itertools.count():
        for text in found:
            if size > megabytes * 1e6:
                return texts
            texts.append(f"{number} {text}")  # so that no text comes twice
            size += len(text.encode())
    return texts


def ours(tokenizer, texts: list[str], folder: Path) -> tuple[float, list[list[int]]]:
    """Reading the source, splitting by content and all: more is done here than there."""
    file = folder / "texts.jsonl.zst"
    write_lines(file, ({"text": text} for text in texts))
    began = time.process_time()
    tokens, _ = text_tokens(tokenizer, [Source(path=file.name)], [[file]], folder / "tokens", places=True)
    seconds = time.process_time() - began
    return seconds, [ids.tolist()[1:] for ids in itertools.islice(tokens, 2_000)]  # the start token is ours


def theirs(tokenizer, texts: list[str], folder: Path) -> tuple[float, list[list[int]]]:
    eos = tokenizer.eos_token_id

    def encode(batch):
        return {"input_ids": [[*ids, eos] for ids in tokenizer(batch["text"])["input_ids"]]}

    data = Dataset.from_dict({"text": texts})
    began = time.process_time()
    mapped = data.map(encode, batched=True, remove_columns=["text"], cache_file_name=str(folder / "mapped.arrow"))
    seconds = time.process_time() - began
    return seconds, mapped[:2_000]["input_ids"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    options = parser.parse_args()
    disable_caching()
    texts = texts_of(options.files or [ROOT.parent / "shared" / "data" / name for name in FILES], options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = trained(texts[:3_000], options.vocabulary, TEMPLATES["turns"])
    print(f"{len(texts):,} texts, {size:.1f} MB, vocabulary {len(tokenizer):,}")
    rates: dict[str, list[float]] = {"ours": [], "datasets.map": []}
    for _ in range(options.rounds):
        found = {}
        for name, way in (("ours", ours), ("datasets.map", theirs)):
            folder = Path(tempfile.mkdtemp())
            try:
                seconds, found[name] = way(tokenizer, texts, folder)
            finally:
                shutil.rmtree(folder)
            rates[name].append(size / seconds)
        assert found["ours"] == found["datasets.map"], "the ids differ"
    for name, values in rates.items():
        print(f"{name:14} {statistics.median(values):6.2f} MB/s of CPU time (rounds: {', '.join(f'{value:.2f}' for value in values)})")
    ratios = np.array(rates["ours"]) / np.array(rates["datasets.map"])
    print(f"ours is {np.median(ratios):.2f} times as fast (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}); ids equal")


if __name__ == "__main__":
    main()
