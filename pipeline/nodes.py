"""Several nodes: who they are, and the process that starts a stage on each of them and ends with them.

    python -m pipeline.nodes ssh runs/demo/chat-1a2b/attempts/1/node.sh gpu1 gpu2
    python -m pipeline.nodes follow runs/demo gpu2

Ends with the code of the first node that failed; a follower with 130 by Ctrl-C. Every node runs the same script with its own name as the only argument; torchrun's rendezvous gives ranks. The script, the job that it names and
all results lie on storage that every node sees. Where none may start processes on another, the others follow: each looks for scripts by itself.
"""

import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from stages.contract import INTERRUPTED, WRONG_INPUT

POLL_SECONDS, FOLLOW_SECONDS = 0.2, 1.0
LAST_WORDS = 30.0
"""Seconds that the other nodes have to say what they saw and to end, once one has failed."""
SAID = "said-{}.txt"
"""File beside a script in which a node that follows, by its name, says what it has to say."""
USAGE = "usage: python -m pipeline.nodes ssh|srun|follow SCRIPT.sh HOST...\n       python -m pipeline.nodes follow RUN HOST"


@dataclass(frozen=True)
class Host:
    name: str
    slots: int | None = None
    """Processes that it has room for."""


def read_hosts(file: Path) -> list[Host]:
    """One host a line, `name` or `name slots=8`; comments begin with #. Raises ValueError with the line, or OSError."""
    hosts = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = [word.removeprefix("slots=") for word in words[1:]]
        if len(words) > 2 or any(not count.isdecimal() or not int(count) for count in slots):
            raise ValueError(f"{file}:{number}: found '{line.strip()}', wanted a host's name, or one with slots=N")
        hosts.append(Host(words[0], int(slots[0]) if slots else None))
    if not hosts:
        raise ValueError(f"{file} names no host")
    return hosts


def is_here(host: str) -> bool:
    """Whether the name or address is one of this machine's own."""
    if host in ("localhost", socket.gethostname(), socket.getfqdn()) or host.startswith("127."):
        return True
    with suppress(OSError), socket.socket() as probe:
        probe.bind((host, 0))  # only an address of one's own can be taken
        return True
    return False


def reached(reach: str, host: str, script: str) -> list[str]:
    """The command that runs the script on a host."""
    if is_here(host):
        return ["sh", script, host]
    if reach == "srun":
        return ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "sh", script, host]
    return ["ssh", "-o", "BatchMode=yes", host, shlex.join(["sh", script, host])]


@dataclass
class Heard:
    """What nodes that follow say beside a script: each writes a file of its own, and the first node passes all on, as ssh and srun do by themselves.

    The process that tells the story may be any node's: ranks follow from how their names are sorted.
    """

    folder: Path
    told: dict[Path, int] = field(default_factory=dict)
    """Bytes that have been passed on, by file."""

    def pass_on(self) -> None:
        for file in sorted(self.folder.glob(SAID.format("*"))):
            with file.open("rb") as stream:
                stream.seek(self.told.get(file, 0))
                sys.stdout.buffer.write(stream.read())
                self.told[file] = stream.tell()
        sys.stdout.buffer.flush()


def outcome(nodes: Sequence[subprocess.Popen[bytes]], tick: Callable[[], None] = lambda: None) -> int:
    """Waits for all nodes, with a `tick` now and then; the exit code of the first that failed, after which the others have `LAST_WORDS` seconds."""
    deadline, failed = float("inf"), 0
    while None in (codes := [node.poll() for node in nodes]) and time.monotonic() < deadline:
        tick()
        failed = failed or next(filter(None, codes), 0)
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + LAST_WORDS
        time.sleep(POLL_SECONDS)
    return failed or next(filter(None, codes), 0)


def newest(run: Path) -> Path | None:
    """The script that was written last: a run is held by one process, so that whoever wrote an earlier one has done with it, or is gone."""
    return max(run.glob("*-*/attempts/*/node.sh"), key=_written, default=None)


def _written(script: Path) -> int:
    try:
        return script.stat().st_mtime_ns
    except OSError:  # removed, or set aside, while it was looked at
        return 0


def follow(run: Path, host: str) -> NoReturn:
    """Takes part, as `host`, in whatever several nodes are to do, and leaves it for what is newer; until it is ended from outside."""
    seen: set[Path] = set()
    print(f"{host} waits for what several nodes are to do in {run}", flush=True)
    while True:
        script = newest(run)
        if script is not None and script not in seen and not (script.parent / "exit.json").exists():
            seen.add(script)
            print(f"{host} takes part in {script.parent}, and says there what it has to say, for the first node's log", flush=True)
            _take_part(script, host, run)
        time.sleep(FOLLOW_SECONDS)


def _take_part(script: Path, host: str, run: Path) -> None:
    with (script.parent / SAID.format(host)).open("ab") as said:
        node = subprocess.Popen(["sh", str(script), host], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        while node.poll() is None and newest(run) == script:
            time.sleep(POLL_SECONDS)
        if node.poll() is None:
            node.terminate()
            with suppress(subprocess.TimeoutExpired):
                node.wait(LAST_WORDS)
    finally:
        node.kill()


def main(arguments: Sequence[str]) -> int:
    reach, place, *hosts = arguments if len(arguments) > 2 else ("", "")
    alone = reach == "follow" and not place.endswith(".sh")
    if reach not in ("ssh", "srun", "follow") or (alone and len(hosts) > 1):
        print(USAGE, file=sys.stderr)
        return WRONG_INPUT
    if alone:
        follow(Path(place), *hosts)
    started = [host for host in hosts if reach != "follow" or is_here(host)]
    return lead([reached(reach, host, place) for host in started], Heard(Path(place).parent))


def lead(commands: Sequence[Sequence[str]], heard: Heard) -> int:
    """Starts every node's command and ends them all with the first that fails."""
    nodes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]
    try:
        code = outcome(nodes, heard.pass_on)
    finally:
        for node in nodes:
            node.kill()
        heard.pass_on()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
