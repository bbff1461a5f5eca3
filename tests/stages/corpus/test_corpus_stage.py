"""The corpus stage: cleaned once, the same whatever the processes, whatever is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.cleaning.clean import Cleaner
from data.errors import DataError
from data.written import written_lines
from stages.corpus import parts
from tests.data.cleaning.test_rules import WORDS, prose


def documents(count, seed=0):
    """Prose, some of it short, some of it twice, some nearly twice."""
    source = random.Random(seed)
    found = []
    for number in range(count):
        kind = source.randrange(6)
        if kind == 0:
            found.append({"text": "too short"})
        elif kind == 1 and found:
            found.append(source.choice(found))
        elif kind == 2:
            found.append({"text": prose(30, seed=number) + " " + source.choice(WORDS)})
            found.append({"text": prose(30, seed=number) + " " + source.choice(WORDS)})
        else:
            found.append({"text": prose(12, seed=number)})
    return found


@pytest.fixture
def corpus(make_job):
    def make(rows=None, name="clean", **config):
        rows = {"data.0": documents(120)} if rows is None else rows
        config = {"data": [{"path": f"{n}.jsonl"} for n in range(sum(key.startswith("data") for key in rows))], "processes": 1, **config}
        return make_job("corpus", config, name=name, rows=rows)

    return make


def texts(job):
    return [row["text"] for file in sorted((job.artifact / "documents").iterdir()) for row in written_lines(file)]


def test_what_stays_is_in_order_each_once_and_what_goes_is_told(corpus, run_stage):
    job = corpus()
    result = run_stage(job)
    found = texts(job)
    assert len(found) == result.metrics["documents"]
    assert len(set(found)) == len(found)
    rows = [row["text"] for row in documents(120)]
    assert [rows.index(text) for text in found] == sorted(rows.index(text) for text in found)
    removed = {row[0]: row[1] for row in result.tables[0].rows}
    assert set(removed) == {"words_min", "exact_copies", "near_copies"}
    assert removed["words_min"] == sum(text == "too short" for text in rows)
    assert sum(removed.values()) + len(found) == len(rows) == result.metrics["documents_read"]
    begins = {" ".join(text.split())[:60] for text in rows}
    assert [row[3][:60] in begins for row in result.tables[1].rows if row[0] == "near_copies"] == [True] * 3
    assert not list((job.folder / "checkpoints").glob("step-*")), "what only the way there needed is gone"


def test_exams_are_kept_out(corpus, run_stage):
    exam = "A train leaves the station at nine and travels sixty miles an hour towards the bridge. How far is it at noon?"
    rows = {"data.0": [{"text": prose(seed=1)}, {"text": prose(seed=2) + " " + exam}], "against.0": [{"question": exam, "answer": "180"}]}
    job = corpus(rows=rows, against=[{"path": "exam"}])
    result = run_stage(job)
    assert texts(job) == [prose(seed=1)]
    assert "compared with 1 texts of exams" in result.notes


def test_nothing_left_is_an_error_that_says_what_took_it(corpus, run_stage):
    with pytest.raises(DataError, match=r"no document is left of 2 \(removed by words_min 2\); loosen"):
        run_stage(corpus(rows={"data.0": [{"text": "a"}, {"text": "b"}]}))


def test_the_number_of_processes_changes_nothing(corpus, run_stage):
    rows = {"data.0": documents(300, seed=3), "data.1": documents(100, seed=4)}
    one, two = corpus(rows=rows, name="one"), corpus(rows=rows, name="two", processes=2)
    first, second = run_stage(one), run_stage(two)
    assert texts(one) == texts(two)
    assert first == second


def test_parts_that_are_there_are_not_done_again_and_the_result_is_that_of_one_go(corpus, run_stage, monkeypatch):
    monkeypatch.setattr(parts, "BATCH", 8)
    monkeypatch.setattr("stages.corpus.run.PART", 2)
    rows = {"data.0": [*documents(50, seed=5), {"foo": "bad"}], "data.1": documents(60, seed=6)}
    config = {"rows": rows, "data": [{"path": "0.jsonl", "on_bad_rows": "skip"}, {"path": "1.jsonl", "limit": 55}]}
    whole = corpus(name="whole", **config)
    expected = run_stage(whole)
    for stop_behind in (1, 3, 5):
        job = corpus(name=f"broken-{stop_behind}", **config)
        with monkeypatch.context() as patch:
            patch.setattr(Cleaner, "batch", counting(2 * stop_behind, []))
            with pytest.raises(KeyboardInterrupt):
                run_stage(job)
        done: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(Cleaner, "batch", counting(1000, done))
            result = run_stage(job)
        assert texts(job) == texts(whole)
        named = [note.replace(job.folder.name, whole.folder.name) for note in result.notes]
        assert result.model_copy(update={"notes": named}) == expected
        assert len(done) == -(-expected.metrics["documents_read"] // 8) - 2 * stop_behind


def counting(most, done):
    """A cleaner that counts its batches, and is interrupted behind `most` of them."""
    original = Cleaner.batch

    def batch(self, documents):
        if len(done) == most:
            raise KeyboardInterrupt
        done.append(1)
        return original(self, documents)

    return batch


@pytest.mark.slow
def test_a_stage_that_is_killed_takes_its_processes_along(corpus):
    rows = documents(400, seed=1) * 40
    job = corpus(rows={"data.0": rows}, processes=2)
    job = job.model_copy(update={"config": {"kind": "corpus", **job.config}})
    (job.folder / "job.json").write_text(job.model_dump_json())
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages", str(job.folder / "job.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def status(process):
        """State and parent, or nothing for a process that is gone; one that only waits to be collected is gone too."""
        try:
            state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state == "Z" else (state, int(parent))

    def children():
        running = {int(entry.name): status(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        return [process for process, found in running.items() if found and found[1] == stage.pid]

    deadline = time.monotonic() + 60
    while len(children()) < 3 and time.monotonic() < deadline and stage.poll() is None:
        time.sleep(0.1)
    workers = children()
    assert len(workers) >= 2
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait()
    while any(map(status, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [worker for worker in workers if status(worker)] == []
    assert json.loads((job.folder / "job.json").read_text())["kind"] == "corpus"
