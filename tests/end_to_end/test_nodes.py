"""Two nodes on one machine, each with its own address and its own launcher: they learn what one process learns, and none outlives the other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stages.contract import DONE, FAILED
from tests.stages.tiny import causal_lm, saved, tokenizer_of

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "green", "hills"]
NODES = ["127.0.0.1", "127.0.0.2"]
STARTED: list[subprocess.Popen] = []
RECIPE = """\
name: two
seed: 3
hardware: {gpus: 0, threads: 1, micro_batch: 1, precision: fp32, zero: 2, hosts: nodes.txt, port: PORT}
checkpoints: {every_steps: 2, every_minutes: null, keep_last: 100}
stages:
  base:
    kind: pretrain
    model: ./model
    data: [{path: texts.jsonl}]
    tokens: 5_120
    batch_tokens: 256
    optimizer: {learning_rate: 1e-3, clip: 0.5}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("nodes")
    tokenizer = tokenizer_of(WORDS)
    saved(causal_lm(tokenizer, context=64), tokenizer, folder / "model")
    rows = ({"text": " ".join(WORDS[(3 * row + 5 * word * row) % len(WORDS)] for word in range(4 + row % 9))} for row in range(200))
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "nodes.txt").write_text("# loopback\n" + "".join(f"{node} slots=1\n" for node in NODES))
    (folder / "two.yaml").write_text(RECIPE.replace("PORT", free_port()))
    yield folder
    for run in STARTED:  # of a test that failed
        if run.poll() is None:
            run.terminate()
            run.wait(60)


def free_port() -> str:
    """One of this run of the tests: others may run beside it."""
    with socket.socket() as taken:
        taken.bind((NODES[0], 0))
        return str(taken.getsockname()[1])


def start(place: Path, *overrides: str) -> subprocess.Popen:
    log = (place / "said.txt").open("w")
    argv = [sys.executable, "-m", "pipeline", "run", "two.yaml", *overrides]
    root = Path(__file__).resolve().parents[2]
    STARTED.append(subprocess.Popen(argv, cwd=place, env={**os.environ, "PYTHONPATH": str(root)}, stdout=log, stderr=log))
    return STARTED[-1]


def launcher_of(node: str, place: Path) -> int:
    """The process of a node that starts the others there; they end with it. Of this folder's run: another may go on beside it."""
    for folder in Path("/proc").glob("[0-9]*"):
        words: list[bytes] = []
        with suppress(OSError):  # it has ended since
            words = (folder / "cmdline").read_bytes().split(b"\0")
        ours = any(word.startswith(bytes(place.resolve())) for word in words)
        if ours and f"--local-addr={node}".encode() in words and b"torch.distributed.run" in words:
            return int(folder.name)
    raise AssertionError(f"no launcher of {node}")


@pytest.fixture(scope="module")
def killed(place) -> str:
    """What is said once the second node was killed in the middle of training."""
    run = start(place)
    deadline = time.monotonic() + 300
    while not list(place.glob("runs/two/base-*/checkpoints/step-000002/COMPLETE")):
        assert run.poll() is None, (place / "said.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(launcher_of(NODES[1], place), signal.SIGKILL)
    assert run.wait(30) == FAILED
    return (place / "said.txt").read_text()


@pytest.fixture(scope="module")
def done(place, killed) -> Path:
    """The stage's folder after the same command has gone on to the end."""
    assert start(place).wait(300) == DONE, (place / "said.txt").read_text()
    return (place / "runs" / "two" / "base").resolve()


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_when_one_node_is_killed_the_other_ends_and_says_so(killed, place):
    assert f"node 1 ({NODES[1]}) is gone: its process 1 was killed, or the machine or its network failed" in killed
    assert "finished stages stay finished; to go on: pipeline run two.yaml" in killed
    with pytest.raises(AssertionError):
        launcher_of(NODES[0], place)


def test_the_same_command_goes_on_from_the_last_checkpoint(done):
    attempts = sorted(path.name for path in (done / "attempts").iterdir())
    assert attempts == ["1", "2"]
    assert "goes on after step" in (done / "attempts" / "2" / "log.txt").read_text()


def test_two_nodes_have_the_losses_of_one_process(done, place):
    assert start(place, "name=one", "hardware.hosts=[]", "hardware.zero=0").wait(300) == DONE, (place / "said.txt").read_text()
    alone, shared = losses((place / "runs" / "one" / "base").resolve()), losses(done)
    assert len(alone) == len(shared) == 20
    assert shared == pytest.approx(alone, abs=1e-5)


def test_zero_through_the_command_line_is_really_zero(done):
    """An engine in charge, and each process's own shard of the optimizer's state beside the other's."""
    job = json.loads((done / "job.json").read_text())
    assert (job["hardware"]["zero"], job["hardware"]["nodes"]) == (2, 2)
    checkpoint = done / "checkpoints" / "step-000020"
    assert json.loads((checkpoint / "COMPLETE").read_text())["zero"] == 2
    shards = sorted(path.name for path in checkpoint.rglob("*optim_states.pt"))
    assert [name.partition("zero_pp_")[2] for name in shards] == [f"rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    sizes = [path.stat().st_size for path in checkpoint.rglob("*optim_states.pt")]
    whole = (done / "artifact" / "model.safetensors").stat().st_size
    assert all(1.3 * whole < size < 2 * whole for size in sizes), "half of an fp32 master copy and of two moments each"


def test_what_is_shared_has_one_writer_and_every_process_its_own_state(done):
    """Storage is shared: the first process writes all but the states that belong to one process."""
    names = [path.name for path in (done / "checkpoints" / "step-000020").rglob("*") if path.is_file()]
    assert len(names) == len(set(names))
    own = [name for name in names if "rank_1" in name or "rng_state_1" in name]
    assert len(own) == 2, names
    assert not list(done.rglob("*.partial*"))
