"""Which nodes there are, what each is told, and that none outlives the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import launch, nodes
from pipeline.errors import RecipeError
from pipeline.process import Stop, watch
from stages.contract import INTERRUPTED, WRONG_INPUT, Hardware
from stages.pretrain.config import Pretrain
from tests.pipeline.conftest import Workshop

JOB = Path("/runs/a b/base-1/job.json")
TRAIN = Pretrain.model_validate({"model": "./base", "data": [{"path": "x"}], "tokens": 1})
TWO = Hardware(gpus=8, hosts=("gpu1", "gpu2"), zero=3)


def test_a_host_file_is_read_as_mpi_has_it(tmp_path: Path):
    file = tmp_path / "hosts"
    file.write_text("# ours\ngpu1 slots=8\n\ngpu2 slots=8 # the old one\n")
    assert nodes.read_hosts(file) == [nodes.Host("gpu1", 8), nodes.Host("gpu2", 8)]
    file.write_text("gpu1 slot=8\n")
    with pytest.raises(ValueError, match=r"hosts:1: found 'gpu1 slot=8', wanted a host's name, or one with slots=N"):
        nodes.read_hosts(file)


def test_every_node_runs_one_script_that_meets_at_the_first():
    hardware = launch.resolved(TWO, 0, TRAIN)
    assert launch.world(hardware) == 16
    script = launch.node_script(JOB, hardware, {"NCCL_SOCKET_IFNAME": "ib0", "HF_TOKEN": "secret"}, meeting="base-1-1")
    last = script.splitlines()[-1]
    assert "torch.distributed.run --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=gpu1:29400 --rdzv-id=base-1-1" in last
    assert last.endswith("""--local-addr="$1" -m stages '/runs/a b/base-1/job.json'""")
    assert "export NCCL_SOCKET_IFNAME=ib0\n" in script
    assert "secret" not in script
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_nodes_are_reached_by_ssh_or_srun_and_this_machine_by_neither():
    assert nodes.reached("ssh", "gpu7", "/a b/node.sh") == ["ssh", "-o", "BatchMode=yes", "gpu7", "sh '/a b/node.sh' gpu7"]
    assert nodes.reached("srun", "gpu7", "/a b/node.sh")[0] == "srun"
    assert nodes.reached("srun", "gpu7", "/a b/node.sh")[-3:] == ["sh", "/a b/node.sh", "gpu7"]
    assert nodes.reached("ssh", "127.0.0.2", "n.sh") == ["sh", "n.sh", "127.0.0.2"]
    assert nodes.is_here(os.uname().nodename)


def test_one_process_does_what_is_not_shared_whatever_the_nodes():
    from stages.world.config import World

    hardware = launch.resolved(TWO, 8, World())
    assert launch.command(JOB, hardware) == [sys.executable, "-m", "stages", str(JOB)]


@pytest.mark.parametrize(("script", "code"), [('[ "$1" = 127.0.0.1 ] || exit 7; sleep 60', 7), ("exit 0", 0), ("kill -9 $$", 137)])
def test_the_first_node_that_fails_ends_the_others_and_gives_the_code(
    tmp_path: Path, script: str, code: int, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "node.sh"
    file.write_text(f"exec 2> /dev/null\n{script}\n")
    monkeypatch.setattr(nodes, "LAST_WORDS", 0.5)
    began = time.monotonic()
    assert nodes.main(["ssh", str(file), "127.0.0.1", "127.0.0.2"]) == code
    assert time.monotonic() - began < 30


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[[int], list[str]]]:
    """Starts a node that follows; gives what it took part in once that are so many attempts."""
    argv = [sys.executable, "-m", "pipeline.nodes", "follow", str(tmp_path), "gpu2"]
    follower = subprocess.Popen(argv, cwd=Path(__file__).resolve().parents[2], stdout=subprocess.DEVNULL)

    def took(count: int) -> list[str]:
        deadline, file = time.monotonic() + 30, tmp_path / "took"
        while not file.exists() or len(file.read_text().splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return file.read_text().splitlines()

    yield took
    follower.terminate()
    follower.wait(10)


def attempt(run: Path, name: str, then: str = "") -> Path:
    (run / name).mkdir(parents=True)
    (run / name / "node.partial").write_text(f"echo {name} $1 >> {run}/took\n{then}\n")
    return (run / name / "node.partial").rename(run / name / "node.sh")


def test_a_node_that_follows_takes_part_in_each_attempt_that_has_not_ended(tmp_path: Path, follow: Callable[[int], list[str]]):
    """And the first node starts nobody but itself."""
    for count, name in enumerate(("chat-2/attempts/1", "chat-2/attempts/2"), 1):
        script = attempt(tmp_path, name)
        follow(count)
    assert follow(2) == ["chat-2/attempts/1 gpu2", "chat-2/attempts/2 gpu2"]
    assert nodes.main(["follow", str(script), "127.0.0.1", "gpu2.invalid"]) == 0
    assert follow(3)[-1] == "chat-2/attempts/2 127.0.0.1"


def test_a_node_that_follows_leaves_an_attempt_that_nobody_ended_for_the_next(tmp_path: Path, follow: Callable[[int], list[str]]):
    """Whoever is killed writes no end; the others of that attempt would wait for him until the meeting is called off."""
    attempt(tmp_path, "chat-2/attempts/1", "exec sleep 60")
    follow(1)
    attempt(tmp_path, "base-1/attempts/1")
    assert follow(2) == ["chat-2/attempts/1 gpu2", "base-1/attempts/1 gpu2"]


def test_what_a_node_that_follows_says_is_said_by_the_first(
    tmp_path: Path, follow: Callable[[int], list[str]], capfd: pytest.CaptureFixture[str]
):
    """The process that tells the story may be its own: names that sort before the first host's have the lower ranks."""
    script = attempt(
        tmp_path,
        "chat-2/attempts/1",
        "cd ${0%/*}\n[ $1 = gpu2 ] && echo step 1 && echo lost >&2 && exit\nuntil [ -s said-gpu2.txt ]; do sleep 0.02; done",
    )
    follow(1)
    assert nodes.main(["follow", str(script), "127.0.0.1", "gpu2.invalid"]) == 0
    assert capfd.readouterr().out == "step 1\nlost\n"


def test_ctrl_c_at_a_node_that_follows_is_no_traceback(tmp_path: Path):
    argv = [sys.executable, "-m", "pipeline.nodes", "follow", str(tmp_path), "gpu2"]
    follower = subprocess.Popen(argv, cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert follower.stdout.readline() == f"gpu2 waits for what several nodes are to do in {tmp_path}\n"
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=30) == ("", "")
    assert follower.returncode == INTERRUPTED


@pytest.mark.parametrize("words", [[], ["follow", "runs/x"], ["follow", "runs/x", "a", "b"], ["scp", "node.sh", "a"]])
def test_other_words_are_told_how_it_is_used(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert nodes.main(words) == WRONG_INPUT
    assert capsys.readouterr().err.startswith("usage: python -m pipeline.nodes")


def test_what_has_ended_or_is_older_is_not_followed(tmp_path: Path):
    old, new = attempt(tmp_path, "base-1/attempts/1"), attempt(tmp_path, "chat-2/attempts/1")
    os.utime(old, ns=(0, new.stat().st_mtime_ns - 1))
    assert nodes.newest(tmp_path) == new
    assert nodes.newest(tmp_path / "chat-2") is None


@pytest.mark.parametrize(
    ("hosts", "overrides", "wanted"),
    [
        ("a slots=2\nb slots=4\n", (), "chain.yaml:2: hardware.hosts: found slots=2, 4, wanted the same on each line"),
        ("a slots=2\nb slots=2\n", ("hardware.gpus=8",), "found slots=2, wanted 8 processes on each node"),
        ("a\na\n", (), "'a' comes twice"),
        ("\n", (), "names no host"),
        ("a\nb\n", ("hardware.nodes=3",), "hardware.nodes: found 3, and hardware.hosts names 2"),
    ],
)
def test_hosts_that_do_not_fit_are_told_with_their_line(workshop: Workshop, hosts: str, overrides: tuple[str, ...], wanted: str):
    (workshop.root / "hosts").write_text(hosts)
    text = workshop.file.read_text()
    workshop.write(text.replace("seed: 5", "hardware: {hosts: hosts}\nseed: 5"))
    with pytest.raises(RecipeError) as found:
        workshop.recipe(*overrides)
    assert wanted in str(found.value)


def test_slots_of_a_host_file_are_its_gpus_where_the_recipe_leaves_them_open(workshop: Workshop):
    (workshop.root / "hosts").write_text("a slots=4\nb slots=4\n")
    assert workshop.recipe("hardware.hosts=hosts").hardware.gpus == 4


def test_several_nodes_without_their_names_are_refused_before_anything_starts(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("hardware.nodes=2") == WRONG_INPUT
    assert "hardware.nodes: found 2, and hardware.hosts names none" in capsys.readouterr().err
    assert not workshop.run.path.exists() or not workshop.attempts()


def test_a_stage_on_several_nodes_is_asked_for_a_checkpoint_by_a_file(tmp_path: Path):
    """A signal to the process that started the others would end them, and reach no other machine."""
    request, stop = tmp_path / "stop", Stop()
    stop.count = 1
    child = subprocess.Popen(["sh", "-c", f"until [ -e {request} ]; do sleep 0.05; done; exit 130"], start_new_session=True)
    assert watch(child, stop, 60, lambda: None, launched=True, request=request) == 130
