"""A corpus of so many gigabytes is generated, cleaned, tokenised and mixed; measured are time, the most memory that was held, and what was found.

    .venv/bin/python benchmarks/corpus_memory.py --gigabytes 0.25 5

The corpus is made of invented words with the frequencies of a language, every document a new one but for what is planted: junk that one rule each
removes, lines of boilerplate, text decoded by the wrong table, exact copies with other case and spacing, near copies with a sentence more or some
words changed, and questions of an exam. What the stage counts stands beside what was planted.

Cleaning is the `corpus` stage with its defaults and an exam, in a process of its own; tokenising and mixing is what a `pretrain` stage does: the
cleaned corpus and a small second source with a temperature, packed, and then every row read once as a training epoch reads them.

Memory is read every 0.05 s, summed over the process and its children: `held` is anonymous (RssAnon), what the process needs; `mapped` is pages of files
and shared memory that it has touched (RssFile, RssShmem), which the system takes back when it needs them; `most` is the largest sum of both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GB = 10**9
EXAM = 200
"""Questions of the exam."""
JUNK = {
    "words_min": "click here to read more",
    "duplicate_lines": "\n".join(["the very same line of a menu again", "home", "about us and what we do here"] * 12),
    "symbols": "a #tag and #another #one with #many #more " * 12,
    "bullet_lines": "\n".join(
        f"- number {number} among several things, namely {word}"
        for number, word in enumerate(["one", "two", "three", "four", "five", "six"] * 4)
    ),
    "alphabetic_words": "price 1234 5678 9012 3456 7890 1122 3344 " * 12,
}
"""A document for each of some rules, to which a number is added."""


@dataclass
class Language:
    """Words of one or more syllables by Zipf's law, and what stands between sentences and paragraphs."""

    random: np.random.RandomState
    forms: list[str] = field(default_factory=list)
    table: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
        words = sorted({"".join(self.random.choice(syllables, size)) for size in self.random.choice((1, 2, 2, 3), 60_000)}, key=len)
        order = self.random.permutation(len(words))
        weights = 1 / (np.arange(len(words)) + 10.0)
        ends = [(word, other, mark) for mark, count in ((". ", 6_000), (".\n\n", 1_000)) for word, other in self._pairs(words, count)]
        self.forms = [words[place] for place in order] + [f"{word}{mark}{other.capitalize()}" for word, other, mark in ends]
        # One word in 13 ends a sentence, one in 90 a paragraph.
        more = np.concatenate([np.full(6_000, 1 / 13 / 6_000), np.full(1_000, 1 / 90 / 1_000)]) * weights.sum()
        share = np.cumsum(np.concatenate([weights, more]))
        self.table = np.searchsorted(share / share[-1], (np.arange(2**20) + 0.5) / 2**20)

    def _pairs(self, words: list[str], count: int) -> list[tuple[str, str]]:
        return [(words[a], words[b]) for a, b in self.random.randint(0, len(words), (count, 2))]

    def text(self, size: int) -> str:
        """So many words."""
        forms = self.forms
        return " ".join([forms[place] for place in self.table[self.random.randint(0, 2**20, size)].tolist()]).capitalize() + "."


def documents(language: Language, questions: list[str], planted: Counter[str]) -> Iterator[str]:
    """Without end; what is planted is counted."""
    random = language.random
    recent: list[str] = []
    names = [*JUNK, "exact_copies", "near_copies", "exam", "repaired", "lines", "good"]
    chances = np.cumsum([0.02] * len(JUNK) + [0.10, 0.05, 0.002, 0.03, 0.05])
    while True:
        kind = names[int(np.searchsorted(chances, random.random_sample(), side="right"))]
        if kind in ("exact_copies", "near_copies") and len(recent) < 100:
            kind = "good"
        planted[kind] += 1
        if kind in JUNK:
            yield f"{JUNK[kind]} {planted[kind]}"
            continue
        if kind == "exact_copies":
            yield recent[random.randint(len(recent))].upper().replace(". ", ".  ")
            continue
        if kind == "near_copies":
            yield near(recent[random.randint(len(recent))], language)
            continue
        text = language.text(int(random.randint(150, 900)))
        if kind == "exam":
            text += " " + questions[random.randint(len(questions))] + " " + language.text(30)
        elif kind == "repaired":
            text = text.replace("a", "é", 5).encode().decode("cp1252", "replace") + "\x00"
        elif kind == "lines":
            text += "\n\nThis site uses cookies. All rights reserved."
        elif len(recent) < 2_000:
            recent.append(text)
        else:
            recent[random.randint(len(recent))] = text
        yield text


def near(text: str, language: Language) -> str:
    """One to three words changed in about 500, or a sentence more: at least 0.9 of the runs of five words stay."""
    if language.random.random_sample() < 0.5:
        return f"{text} {language.text(6)}"
    words = text.split(" ")
    for place in language.random.randint(0, len(words), max(1, len(words) // 300)):
        words[place] = "changed"
    return " ".join(words)


def generate(folder: Path, size: float, seed: int) -> tuple[int, Counter[str]]:
    """Files of at most 250 MB and an exam; returns the bytes written and what was planted."""
    language, planted = Language(np.random.RandomState(seed)), Counter[str]()
    questions = [language.text(30) for _ in range(EXAM)]
    (folder / "exam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in questions), encoding="utf-8")
    (folder / "raw").mkdir()
    source = documents(language, questions, planted)
    written = number = 0
    while written < size:
        with (folder / "raw" / f"web-{number:03d}.jsonl").open("w", encoding="utf-8") as file:
            here = 0
            while here < min(GB // 4, size - written):
                here += file.write(json.dumps({"text": next(source)}, ensure_ascii=False) + "\n")
        written, number = written + here, number + 1
    small = Language(np.random.RandomState(seed + 1))
    (folder / "small.jsonl").write_text("".join(json.dumps({"text": small.text(300)}) + "\n" for _ in range(2_000)), encoding="utf-8")
    return written, planted


class Memory:
    """Megabytes of a process and its children, the most of each kind while it runs."""

    def __init__(self, process: int) -> None:
        self.most: dict[str, float] = {"most": 0.0, "held": 0.0, "mapped": 0.0}
        self._process, self._done = process, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            found = [kinds(process) for process in family(self._process)]
            held, mapped = sum(kind[0] for kind in found), sum(kind[1] for kind in found)
            for name, value in (("most", held + mapped), ("held", held), ("mapped", mapped)):
                self.most[name] = max(self.most[name], value)

    def ended(self) -> dict[str, float]:
        self._done.set()
        self._watcher.join()
        return {name: round(value, 1) for name, value in self.most.items()}


def kinds(process: int) -> tuple[float, float]:
    """Megabytes that are anonymous, and those of files and shared memory."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("Rss"))
    except OSError:
        return 0.0, 0.0
    held, *mapped = (int(lines.get(name, "0").split()[0]) * 1024 / 1e6 for name in ("RssAnon", "RssFile", "RssShmem"))  # none of a zombie
    return held, sum(mapped)


def family(parent: int) -> list[int]:
    """A process and all below it."""
    found = [parent]
    for process in found:
        try:
            for thread in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found


def measured(arguments: list[str]) -> tuple[dict[str, float], str]:
    """Seconds by the clock and of CPU, megabytes, and the output of a process and its children."""
    began, before = time.monotonic(), os.times()
    child = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"})
    memory = Memory(child.pid)
    output = child.communicate()[0]
    megabytes, after = memory.ended(), os.times()
    if child.returncode:
        raise SystemExit(output[-4_000:])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(time.monotonic() - began, 1), "cpu": round(cpu, 1), **megabytes}, output


def mix(folder: Path) -> None:
    """What pretraining does before its first step and, but for the model, in an epoch; in a process of its own."""
    from itertools import islice

    from transformers import AutoTokenizer

    from data.config import Source
    from data.formats import Text
    from data.reading import Stream
    from data.sources import resolve
    from data.templates import TEMPLATES
    from stages.contract import Job
    from stages.core.rows import PackedRows, collate
    from stages.core.text import corpora
    from stages.tokenizer.run import trained

    sources = [Source(path="clean/artifact/documents"), Source(path="small.jsonl")]
    files = {f"data.{number}": resolve(source, folder) for number, source in enumerate(sources)}
    trained(
        (record.text for _, record in islice(Stream(sources[:1], [files["data.0"]], Text), 2_000)), 16_384, TEMPLATES["turns"]
    ).save_pretrained(folder / "words")
    tokenizer = AutoTokenizer.from_pretrained(folder / "words")
    job = Job(stage="base", kind="pretrain", folder=folder / "base", seed=1, files=files, config={})
    began = time.process_time()
    found = corpora(job, tokenizer, sources, [], 0.01, temperature=2.0)
    tokenised = time.process_time()
    rows = PackedRows(found.train.documents(1024), capacity=1024, seed=1)
    packed = time.process_time()
    tokens = sum(batch["input_ids"].numel() for batch in (collate([rows[row]]) for row in range(rows.per_epoch)))
    share = float((found.train.tokens.documents["source"][found.train.picked] == 1).mean())
    told = {
        "tokens": int(found.train.tokens.about["tokens"]), "documents": len(found.train.tokens), "share_of_small": round(share, 4),
        "rows": rows.per_epoch, "read": tokens, "efficiency": round(tokens / rows.per_epoch / 1024, 4),
        "tokenise_cpu": round(tokenised - began, 1), "pack_cpu": round(packed - tokenised, 1), "read_cpu": round(time.process_time() - packed, 1),
    }  # fmt: skip
    print(json.dumps(told))


def counted(result: dict, planted: Counter[str]) -> list[tuple[str, int, int]]:
    """What was planted and what the stage says of it."""
    removed = {row[0]: int(row[1]) for row in result["tables"][0]["rows"]}
    done = " ".join(result["notes"])
    for name, words in (("repaired", " documents repaired"), ("lines", " lines taken out")):
        removed[name] = int(done.split(words)[0].split()[-1].replace(",", "")) if words in done else 0
    kept = sum(planted[name] for name in ("good", "repaired", "lines"))
    names = [name for name in planted if name != "good"] + [name for name in removed if name not in planted]
    return [("kept", kept, int(result["metrics"]["documents"])), *((name, planted[name], removed.get(name, 0)) for name in names)]


def run(size: float, processes: int, place: str | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="corpus-", dir=place))
    try:
        began = time.process_time()
        written, planted = generate(folder, size * GB, seed=1)
        print(f"{written / GB:.2f} GB generated, {planted.total():,} documents, {time.process_time() - began:.0f} s of CPU", flush=True)
        (folder / "clean").mkdir()
        job = {
            "stage": "clean", "kind": "corpus", "folder": str(folder / "clean"), "seed": 1,
            "files": {"data.0": sorted(str(file) for file in (folder / "raw").iterdir()), "against.0": [str(folder / "exam.jsonl")]},
            "config": {"kind": "corpus", "data": [{"path": "raw"}], "against": [{"path": "exam.jsonl"}], "processes": processes},
        }  # fmt: skip
        (folder / "clean" / "job.json").write_text(json.dumps(job))
        cost, _ = measured([sys.executable, "-m", "stages", str(folder / "clean" / "job.json")])
        result = json.loads((folder / "clean" / "result.json").read_text())
        print(f"cleaned: {cost}; {written / 1e6 / cost['cpu']:.1f} MB/s of CPU", flush=True)
        print(
            *(f"  {name:20} planted {planted:9,}  found {found:9,}" for name, planted, found in counted(result, planted)),
            sep="\n",
            flush=True,
        )
        shutil.rmtree(folder / "raw")
        (folder / "base").mkdir()
        cost, output = measured([sys.executable, __file__, "--mix", str(folder)])
        print(f"tokenised, mixed and read: {cost}; {output.splitlines()[-1]}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25])
    parser.add_argument("--processes", type=int, default=1, help="processes that clean")
    parser.add_argument("--folder", help="where the corpus is written, by default the system's temporary folder")
    parser.add_argument("--mix", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.mix:
        mix(options.mix)
    else:
        for size in options.gigabytes:
            run(size, options.processes, options.folder)
