"""A corpus of so many gigabytes is generated, cleaned, tokenised and mixed; what is measured is time and the most memory that was ever held.

    .venv/bin/python benchmarks/corpus_memory.py --gigabytes 0.25 1

The corpus is made of sentences of invented words, one document in ten short junk, one in ten a copy of an earlier one, one in twenty nearly one,
some with bytes decoded wrongly. Cleaning is the `corpus` stage with its defaults, in a process of its own; tokenising and mixing is what a
`pretrain` stage does before its first step: the cleaned corpus and a small second source with a temperature, and 1,000 rows read at random.
Memory is the resident set of the process and its children, read every 0.1 s; a file that is mapped counts with the pages that were touched.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GB = 10**9


def sentences(count: int, source: random.Random) -> list[str]:
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
    words = ["".join(source.choices(syllables, k=source.choice((1, 2, 2, 3)))) for _ in range(50_000)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    return [" ".join(source.choices(words, cum_weights=weights, k=source.randrange(8, 20))).capitalize() + "." for _ in range(count)]


def generate(folder: Path, size: float, seed: int) -> int:
    """Files of at most 250 MB; returns the bytes written."""
    source = random.Random(seed)
    said = sentences(400_000, source)
    written, number, recent = 0, 0, ["one"] * 50
    while written < size:
        with (folder / f"web-{number:03d}.jsonl").open("w", encoding="utf-8") as file:
            here = 0
            while here < min(GB // 4, size - written):
                kind = source.random()
                parts = source.choices(said, k=source.randrange(10, 60))
                text = "\n\n".join(" ".join(parts[begin : begin + 6]) for begin in range(0, len(parts), 6))
                if kind < 0.1:
                    text = "click here to read more"
                elif kind < 0.2:
                    text = source.choice(recent)
                elif kind < 0.25:
                    text = source.choice(recent) + " " + source.choice(said)
                elif kind < 0.3:
                    text = text.replace("a", "Ã©", 5)
                else:
                    recent[source.randrange(len(recent))] = text
                here += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        written, number = written + here, number + 1
    return written


def measured(arguments: list[str]) -> tuple[float, float, str]:
    """Wall seconds, most megabytes, and the output of a process and its children."""
    began = time.monotonic()
    child = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"})
    most, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            most = max(most, sum(map(resident, family(child.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = child.communicate()[0]
    done.set()
    watcher.join()
    assert child.returncode == 0, output
    return time.monotonic() - began, most / 1e6, output


def family(parent: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [parent]
    for process in found:
        found += [child for child, above in parents.items() if above == process]
    return found


def resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def mix(folder: Path) -> None:
    """What pretraining does before its first step, in a process of its own."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from itertools import islice

    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from data.config import Source
    from data.formats import Text
    from data.packing import pack
    from data.prepared import picked, text_tokens
    from data.reading import Stream
    from data.records import sides
    from data.sources import resolve

    sources = [Source(path="clean/artifact/documents"), Source(path="small.jsonl")]
    files = [resolve(source, folder) for source in sources]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16_384, special_tokens=["<|eos|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator((record.text for _, record in islice(Stream(sources[:1], files[:1], Text), 2_000)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")  # noqa: S106 - a token of text
    began = time.process_time()
    tokens, _ = text_tokens(tokenizer, sources, files, folder / "tokens", places=True)
    spent = time.process_time() - began
    chosen = picked(tokens, sources, 2.0)
    out = np.array(sides(tokens.documents["place"][chosen].tolist(), 0.01))
    lengths, starts = tokens.lengths, tokens.starts
    rows = 0
    for window in np.array_split(np.random.RandomState(0).permutation(chosen[~out]), max(1, len(chosen) // 2**16)):
        rows += len(pack(np.minimum(lengths[window], 1024).tolist(), 1024))
    total = 0
    for document in np.random.RandomState(1).choice(chosen, 10_000):
        total += int(tokens.ids[starts[document] : starts[document] + lengths[document]].astype(np.int64).sum())
    share = float((tokens.documents["source"][chosen] == 1).mean())
    print(
        json.dumps({"tokens": int(tokens.about["tokens"]), "documents": len(tokens), "cpu": spent, "rows": rows, "share_of_small": share})
    )


def run(size: float, processes: int, place: str | None) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        (folder / "raw").mkdir()
        (folder / "clean").mkdir()
        began = time.monotonic()
        written = generate(folder / "raw", size * GB, seed=1)
        print(f"{written / GB:.2f} GB generated in {time.monotonic() - began:.0f} s", flush=True)
        generate_small(folder / "small.jsonl")
        files = sorted(str(file) for file in (folder / "raw").iterdir())
        job = {
            "stage": "clean", "kind": "corpus", "folder": str(folder / "clean"), "seed": 1, "files": {"data.0": files},
            "config": {"kind": "corpus", "data": [{"path": "raw"}], "processes": processes},
        }  # fmt: skip
        (folder / "clean" / "job.json").write_text(json.dumps(job))
        seconds, megabytes, output = measured([sys.executable, "-m", "stages", str(folder / "clean" / "job.json")])
        result = json.loads((folder / "clean" / "result.json").read_text())
        print(f"cleaned: {seconds:.0f} s, {written / 1e6 / seconds:.1f} MB/s, {megabytes:,.0f} MB at most; {result['metrics']}", flush=True)
        print(*(f"  {row[0]} {row[1]:,.0f}" for row in result["tables"][0]["rows"]), sep="\n", flush=True)
        more, also, output = measured([sys.executable, __file__, "--mix", str(folder)])
        found = json.loads(output.splitlines()[-1])
        print(f"tokenised and mixed: {more:.0f} s, {also:,.0f} MB at most; {found}", flush=True)
        return {
            "gigabytes": written / GB,
            "clean_seconds": seconds,
            "clean_megabytes": megabytes,
            "mix_seconds": more,
            "mix_megabytes": also,
            **found,
        }
    finally:
        shutil.rmtree(folder)


def generate_small(file: Path) -> None:
    said = sentences(20_000, random.Random(2))
    source = random.Random(3)
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(2_000):
            stream.write(json.dumps({"text": " ".join(source.choices(said, k=20))}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--processes", type=int, default=1, help="processes that clean")
    parser.add_argument("--folder", help="where the corpus is written, by default the system's temporary folder")
    parser.add_argument("--mix", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.mix:
        mix(options.mix)
    else:
        for line in [run(size, options.processes, options.folder) for size in options.gigabytes]:
            print(json.dumps(line))
