"""Processes of a stage on several nodes, and what they know of one another.

When a machine dies, a collective waits for it until its own time-out, half an hour later, and then speaks of sockets. Here every process holds
one connection to the first; a connection that ends without a word is a process that was killed, and the kernel's own probes end it when a
machine or the network is gone. No process has to find time for signs of life.
"""

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from stages.contract import FAILED, STOP, Job

IDLE, INTERVAL, COUNT = 5, 4, 3
"""Seconds of silence before the kernel asks whether the other machine is there, seconds between its questions, and how many it asks."""
PATIENCE = 6.0
"""Seconds that a process gets to end by itself after another is gone; one that waits in a collective does not."""
MEETING = 300.0
"""Seconds in which all processes must have come."""
LONGEST = 1000
"""Characters of a greeting."""
ENDED = {"ended": True}


class Store(Protocol):
    """What torch's TCPStore does here."""

    def set(self, key: str, value: str) -> Any: ...
    def get(self, key: str) -> bytes: ...


@dataclass
class Neighbours:
    """This process among those of all nodes."""

    rank: int
    node: int
    host: str
    on_loss: Callable[[str], None] = lambda sentence: None
    """Called, in a thread, with what happened to another process."""
    lost: str = ""
    _heard: threading.Event = field(default_factory=threading.Event)
    _lines: list[socket.socket] = field(default_factory=list)
    _closed: bool = False

    def meet(self, store: Store, size: int) -> None:
        """The first process listens, the others call it; `store` holds its address, and a word by which it knows them.

        It listens on all addresses of its machine: its own name may stand for one that only itself can reach (127.0.1.1 on Debian).
        """
        if self.rank == 0:
            server, secret = _server(size), secrets.token_hex(16)
            store.set("neighbours", json.dumps([self.host, server.getsockname()[1], secret]))
            _start(self._listen, server, secret)
        else:
            host, port, secret = json.loads(store.get("neighbours"))
            line = socket.create_connection((host, port), timeout=MEETING)
            self._take(line)
            _send(line, {"secret": secret, "rank": self.rank, "node": self.node, "host": self.host})
            _start(self._hear, line, line.makefile("r", encoding="utf-8"), {"rank": 0, "node": 0, "host": host})

    def gone(self) -> str:
        """What happened to another process, given a moment to be heard; empty if nothing did."""
        self._heard.wait(PATIENCE / 2)
        return self.lost

    def close(self) -> None:
        """Take leave: whatever ends after this is no surprise to the others."""
        self._closed = True
        for line in self._lines:
            with suppress(OSError):
                _send(line, ENDED)
                line.shutdown(socket.SHUT_WR)

    def _listen(self, server: socket.socket, secret: str) -> None:
        with server:
            while True:
                _start(self._welcome, server.accept()[0], secret)

    def _welcome(self, line: socket.socket, secret: str) -> None:
        """Whoever does not know the word is none of ours, and is not missed."""
        with suppress(OSError, ValueError):
            line.settimeout(MEETING)
            said = line.makefile("r", encoding="utf-8")
            who = json.loads(said.readline(LONGEST))
            if isinstance(who, dict) and secrets.compare_digest(str(who.get("secret")).encode(), secret.encode()):
                self._take(line)
                return self._hear(line, said, who)
        return line.close()

    def _take(self, line: socket.socket) -> None:
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", COUNT)):
            if hasattr(socket, option):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._lines.append(line)

    def _hear(self, line: socket.socket, said: TextIO, who: dict[str, Any]) -> None:
        """Read what the other end says until it ends; the first process passes bad news on."""
        with suppress(OSError, ValueError), line, said:
            for text in said:
                message = json.loads(text)
                if "lost" in message:
                    return self._bad_news(message["lost"])
                return None
        if not self._closed:
            self._bad_news(_sentence(who))
        return None

    def _bad_news(self, sentence: str) -> None:
        if self.lost:
            return
        self.lost = sentence
        self._heard.set()
        for line in self._lines if self.rank == 0 else ():
            with suppress(OSError):
                _send(line, {"lost": sentence})
        self.on_loss(sentence)


def _sentence(who: dict[str, Any]) -> str:
    return f"node {who['node']} ({who['host']}) is gone: its process {who['rank']} was killed, or the machine or its network failed"


def _server(size: int) -> socket.socket:
    """Listens on a free port of every address, of both families where the machine has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)


def _send(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall((json.dumps(message) + "\n").encode())


def _start(work: Callable[..., Any], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


@contextmanager
def neighbours(job: Job, note: Callable[[str], None]) -> Iterator[Neighbours | None]:
    """This process among those of several nodes, as torchrun's variables say; None on one node.

    When another is gone, `note` is called and the process ended, unless it ends by itself before. The first process also obeys the file by which
    the orchestrator, on whatever machine, asks for a checkpoint.
    """
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) < 2:
        yield None
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    rank, node, size = (int(os.environ[name]) for name in ("RANK", "GROUP_RANK", "WORLD_SIZE"))

    def leave(sentence: str) -> None:
        time.sleep(PATIENCE)
        note(sentence)
        print(f"{job.stage}: {sentence}", file=sys.stderr, flush=True)
        os._exit(FAILED)

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    here = Neighbours(rank, node, own_address(rank), leave)
    here.meet(store, size)
    if rank == 0:
        _start(obey, job.folder / "attempts" / str(job.attempt) / STOP)
    try:
        yield here
    finally:
        here.close()


def own_address(rank: int) -> str:
    """How the others reach the first process, as torchrun told everyone; of the others, the name by which their node was started."""
    return os.environ["MASTER_ADDR"] if rank == 0 else os.environ.get("PIPELINE_NODE") or socket.gethostname()


def obey(file: Path) -> None:
    """Once the file is there, this process gets the signal that asks for a checkpoint; the stage spreads the word."""
    while not file.exists():
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
