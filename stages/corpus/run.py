"""Corpus: raw text to documents worth learning, each once."""

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cleaning.clean import Cleaned, Cleaner
from data.cleaning.copies import Signatures, exact_copies, near_copies
from data.cleaning.overlap import Exams, exams_of
from data.cleaning.report import Report
from data.errors import DataError
from data.formats import Text
from data.reading import Stream
from data.written import write_lines, written_lines
from stages.contract import Artifact, Hardware, Job, Result, StageError, Table
from stages.core import checkpoints
from stages.core.interrupt import Interrupted, interruptible
from stages.core.metrics import Metrics
from stages.core.publishing import publish
from stages.core.reading import files_of
from stages.corpus.config import Corpus
from stages.corpus.parts import PART, batches_of, cleaned_part, cleaning, read_state, write_state

DOCUMENTS = "documents"
"""Folder of the artifact that holds the documents."""
SHARD = 100_000
"""Documents of one file of the artifact."""


def run(job: Job, config: Corpus, hardware: Hardware) -> Result:
    """Clean in parts, find copies over all of them, write what stays."""
    exams = _exams(job, config)
    names = [source.path for source in config.data]
    cleaner = Cleaner(config, exams, names)
    stream: Stream[Text] = Stream(config.data, files_of(job, "data", config.data), Text)
    report = _first_pass(job, config, cleaner, stream, hardware)
    parts = sorted((job.folder / "checkpoints").glob("step-*"))
    exact, near = _copies(parts, config)
    publish(job.artifact, lambda folder: _written(folder, parts, exact, near, names, report))
    if not report.kept:
        removed = "; ".join(f"{rule} {found.documents:,}" for rule, found in report.removed.items())
        raise DataError(
            f"no document is left of {report.documents:,} (removed by {removed}); loosen these rules, or switch them off with null"
        )
    notes = [*stream.notes, *report.sentences(), *_exam_notes(exams)]
    for part in reversed(parts):  # what is left of a removal that is cut short are whole parts from the first on
        shutil.rmtree(part)
    return Result(steps=len(parts), metrics=_metrics(report), tables=_tables(report), notes=notes)


def _exams(job: Job, config: Corpus) -> Exams:
    if not config.against:
        return Exams({})
    stream: Stream[Text] = Stream(config.against, files_of(job, "against", config.against), Text)
    return exams_of((record.text for _, record in stream), config.overlap)


def _first_pass(job: Job, config: Corpus, cleaner: Cleaner, stream: Stream[Text], hardware: Hardware) -> Report:
    """Every part that is not there yet; what all of them did together."""
    folder = job.folder / "checkpoints"
    done, total = _whole_parts(folder)
    if done:
        stream.restore(read_state(folder / f"step-{done:06d}")[1])
        print(f"goes on behind part {done}, {total.documents:,} documents", flush=True)
    metrics = Metrics(job.folder)
    metrics.rewind(done)
    batches = batches_of(iter(stream))
    with interruptible() as stop, cleaning(cleaner, config.processes or hardware.threads or len(os.sched_getaffinity(0))) as clean:
        while (first := next(batches, None)) is not None:
            report = Report()
            part = chain([first], islice(batches, PART - 1))
            _write_part(folder / f".partial-step-{done + 1:06d}", clean(part), config, report, stream)
            done += 1
            total.merge(report)
            kept = 1 - sum(found.characters for found in total.removed.values()) / max(1, total.characters)
            metrics.log(done, done, documents=total.documents, megabytes=total.characters / 1e6, kept=kept)
            print(
                f"{total.documents:,} documents, {total.characters / 1e6:,.1f} MB; {kept:.1%} of it kept before copies are found",
                flush=True,
            )
            if stop():
                raise Interrupted(f"interrupted after {total.documents:,} documents; the same command goes on from there")
    return total


def _whole_parts(folder: Path) -> tuple[int, Report]:
    """How many parts from the first on are whole, and what they did together."""
    done, total = 0, Report()
    while (part := folder / f"step-{done + 1:06d}").is_dir() and checkpoints.damage(part) is None:
        done += 1
        total.merge(read_state(part)[0])
    return done, total


def _write_part(folder: Path, cleaned: Iterator[Cleaned], config: Corpus, report: Report, stream: Stream[Text]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        report.merge(cleaned_part(cleaned, folder, config.copies.near))
        write_state(folder, report, stream)
        checkpoints.seal(folder)
    except OSError as error:
        free = shutil.disk_usage(folder).free >> 20
        raise StageError(
            f"{folder.name} could not be written ({error}); {free:,} MiB are free there, and the parts before it are whole"
        ) from error


def _copies(parts: Sequence[Path], config: Corpus) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which documents repeat earlier ones: exactly, and nearly."""
    digests = np.concatenate([np.load(part / "digests.npy") for part in parts])
    exact = exact_copies(digests) if config.copies.exact else np.zeros(len(digests), np.bool_)
    if config.copies.near is None or not len(digests):
        return exact, np.zeros(len(digests), np.bool_)
    bands: list[NDArray[np.uint64]] = [np.load(part / "bands.npy", mmap_mode="r") for part in parts]
    signatures = Signatures([np.load(part / "signatures.npy", mmap_mode="r") for part in parts])
    keys = [[part[band] for part in bands] for band in range(len(bands[0]))]
    return exact, near_copies(keys, signatures, exact, config.copies.near)


def _written(
    folder: Path, parts: Sequence[Path], exact: NDArray[np.bool_], near: NDArray[np.bool_], names: Sequence[str], report: Report
) -> Artifact:
    """The documents that stay, in the order of the sources."""
    (folder / DOCUMENTS).mkdir()
    documents = (row for part in parts for row in written_lines(part / "texts.jsonl.zst"))

    def kept() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(documents):
            source, text = names[row["source"]], row["text"]
            if exact[number] or near[number]:
                report.remove("exact_copies" if exact[number] else "near_copies", source, 0.0, text)
                continue
            report.keep(text)
            yield {"text": text, "source": source}

    rows, number = kept(), 0
    while first := list(islice(rows, 1)):
        write_lines(folder / DOCUMENTS / f"{number:05d}.jsonl.zst", (row for group in (first, islice(rows, SHARD - 1)) for row in group))
        number += 1
    return Artifact(kind="dataset")


def _exam_notes(exams: Exams) -> list[str]:
    if not exams.texts:
        return []
    short = f", {exams.too_short:,} of them too short to be looked for" if exams.too_short else ""
    return [f"compared with {exams.texts:,} texts of exams{short}"]


def _metrics(report: Report) -> dict[str, float]:
    return {
        "documents": float(report.kept),
        "characters": float(report.kept_characters),
        "documents_read": float(report.documents),
        "kept": report.kept_characters / max(1, report.characters),
    }


def _tables(report: Report) -> list[Table]:
    rules = sorted(report.removed.items(), key=lambda item: -item[1].documents)
    counts: list[list[str | float | None]] = [
        [rule, float(found.documents), found.documents / report.documents, float(found.characters)] for rule, found in rules
    ]
    examples: list[list[str | float | None]] = [
        [rule, value, source, text] for rule, found in rules for source, value, text in found.examples
    ]
    return [
        Table(title="removed", columns=["rule", "documents", "share", "characters"], rows=counts),
        Table(title="examples of what was removed", columns=["rule", "measure", "source", "text"], rows=examples),
    ]
