"""The first pass: documents cleaned in parts, each sealed as a checkpoint, so that an attempt that is killed goes on behind the last whole part."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from data.cleaning.clean import Cleaned, Cleaner
from data.cleaning.copies import Bands
from data.cleaning.report import Report
from data.formats import Text
from data.reading import Stream
from data.written import write_lines

BATCH = 128
"""Documents that a process takes at a time."""
PART = 128
"""Batches of a part."""

_CLEANER: Cleaner | None = None


def cleaned_part(batches: Iterable[Cleaned], folder: Path, near: float | None) -> Report:
    """Write one part: texts, and beside them what copies are found by. What is held is a part's worth of numbers, and one batch of texts."""
    report = Report()
    found: list[Cleaned] = []

    def rows() -> Iterator[dict[str, Any]]:
        for batch in batches:
            report.merge(batch.report)
            yield from ({"text": text, "source": source} for text, source in zip(batch.texts, batch.sources, strict=True))
            batch.texts, batch.sources = [], []
            found.append(batch)

    write_lines(folder / "texts.jsonl.zst", rows())
    np.save(folder / "digests.npy", np.concatenate([batch.digests_N2 for batch in found]))
    if near is not None:
        signatures = np.concatenate([batch.signatures_NP for batch in found])
        np.save(folder / "signatures.npy", signatures)
        np.save(folder / "bands.npy", Bands.of(near).keys(signatures))
    return report


def write_state(folder: Path, report: Report, stream: Stream[Any]) -> None:
    (folder / "state.json").write_text(json.dumps({"report": report.plain(), "stream": stream.state()}), encoding="utf-8")


def read_state(folder: Path) -> tuple[Report, dict[str, Any]]:
    """What a part did, and where its sources stood at its end."""
    state = json.loads((folder / "state.json").read_bytes())
    return Report.of(state["report"]), state["stream"]


@contextmanager
def cleaning(cleaner: Cleaner, processes: int) -> Iterator[Any]:
    """A function from batches of documents to cleaned ones, in their order, carried out by processes of its own if there is more than one."""
    if processes == 1:
        yield lambda batches: map(cleaner.batch, batches)
        return
    # A fork would copy locks that pyarrow's threads may hold.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _prepare, (cleaner, os.getpid()))
    try:
        yield lambda batches: _in_order(pool, batches, 2 * processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, batches: Iterable[list[tuple[int, str]]], ahead: int) -> Iterator[Cleaned]:
    """No more than `ahead` batches are read before their turn: a pool's own `map` would read everything."""
    waiting: deque[Future[Cleaned]] = deque()
    for batch in batches:
        waiting.append(pool.submit(_clean, batch))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare(cleaner: Cleaner, stage: int) -> None:
    """In each process of a pool."""
    import ctypes
    import signal

    global _CLEANER
    _CLEANER = cleaner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage itself decides what a signal means
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG: a stage that is killed takes them along
    except (OSError, AttributeError):
        return  # only Linux has it
    if os.getppid() != stage:  # it died before it could be told
        os._exit(1)


def _clean(batch: list[tuple[int, str]]) -> Cleaned:
    assert _CLEANER is not None  # noqa: S101
    return _CLEANER.batch(batch)


def batches_of(stream: Iterator[tuple[int, Text]]) -> Iterator[list[tuple[int, str]]]:
    """Documents in batches, read as they are asked for."""
    while batch := [(source, record.text) for source, record in islice(stream, BATCH)]:
        yield batch
