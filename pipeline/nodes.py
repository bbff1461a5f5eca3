"""Several nodes: who they are, and the process that starts a stage on each of them and ends with them.

    python -m pipeline.nodes ssh runs/demo/chat-1a2b/attempts/1/node.sh gpu1 gpu2
    python -m pipeline.nodes follow runs/demo gpu2

Every node runs the same script with its own name as the only argument; torchrun's rendezvous gives ranks. The script, the job that it names and
all results lie on storage that every node sees. Where none may start processes on another, the others follow: each looks for scripts by itself.
"""

import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

POLL_SECONDS, FOLLOW_SECONDS = 0.2, 1.0
LAST_WORDS = 30.0
"""Seconds that the other nodes have to say what they saw and to end, once one has failed."""


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


def outcome(nodes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all nodes; the exit code of the first that failed, after which the others have `LAST_WORDS` seconds."""
    deadline, failed = float("inf"), 0
    while None in (codes := [node.poll() for node in nodes]) and time.monotonic() < deadline:
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
    while True:
        script = newest(run)
        if script is not None and script not in seen and not (script.parent / "exit.json").exists():
            seen.add(script)
            print(f"{host} takes part in {script.parent}", flush=True)
            _take_part(script, host, run)
        time.sleep(FOLLOW_SECONDS)


def _take_part(script: Path, host: str, run: Path) -> None:
    node = subprocess.Popen(["sh", str(script), host], stdin=subprocess.DEVNULL)
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
    reach, place, *hosts = arguments
    if reach == "follow" and not place.endswith(".sh"):
        follow(Path(place), *hosts)
    started = [host for host in hosts if reach != "follow" or is_here(host)]
    return lead([reached(reach, host, place) for host in started])


def lead(commands: Sequence[Sequence[str]]) -> int:
    """Starts every node's command and ends them all with the first that fails."""
    nodes = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for command in commands]
    try:
        code = outcome(nodes)
    finally:
        for node in nodes:
            node.kill()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
