"""A process that ends without a word is missed by all others, whoever it is; one that takes leave is not."""

import json
import socket
import time
from contextlib import suppress

import pytest

from stages.core.neighbours import Neighbours, obey


class Board:
    """A store in one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def three() -> list[Neighbours]:
    board = Board()
    people = [Neighbours(rank, rank, "127.0.0.1" if rank == 0 else f"n{rank}") for rank in range(3)]
    for person in people:
        person.meet(board, 3)
    until(lambda: len(people[0]._lines) == 2)
    return people


def vanish(person: Neighbours) -> None:
    """As the kernel ends a killed process's connections."""
    for line in person._lines:
        line.shutdown(socket.SHUT_RDWR)


def test_all_are_told_who_is_gone(three):
    time.sleep(0.1)  # the first must have heard the names
    vanish(three[2])
    for person in three[:2]:
        until(lambda person=person: person.lost)
        assert person.lost == "node 2 (n2) is gone: its process 2 was killed, or the machine or its network failed"


def test_the_first_is_missed_as_well(three):
    three[0]._closed = True  # the dead pass nothing on
    vanish(three[0])
    for person in three[1:]:
        until(lambda person=person: person.lost)
        assert person.lost.startswith("node 0 (127.0.0.1) is gone")


def test_nobody_is_missed_who_took_leave(three):
    for person in (three[1], three[2], three[0]):
        person.close()
    time.sleep(0.3)
    assert [person.lost for person in three] == ["", "", ""]


def test_the_first_is_reached_by_the_address_that_all_were_told_whatever_its_own_name_stands_for():
    """As on Debian, where a machine's name is 127.0.1.1 to itself; the others know it by another address."""
    board = Board()
    first = Neighbours(0, 0, "name-that-stands-for-nothing")
    first.meet(board, 2)
    told = json.loads(board.values["neighbours"])
    assert told[0] == first.host
    for number, address in enumerate(("127.0.0.1", "127.0.1.1", "127.0.0.9"), 1):
        board.values["neighbours"] = json.dumps([address, *told[1:]])
        Neighbours(number, number, f"n{number}").meet(board, 4)
        until(lambda number=number: len(first._lines) == number)


def test_strangers_are_turned_away_and_not_missed(three):
    port = three[1]._lines[0].getpeername()[1]
    greetings = (
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"rank": 1, "node": 1, "host": "n1", "secret": "guessed"}\n',
        '{"secret": "é"}\n'.encode(),
        b"[]\n",
        b"x" * 2000,
        b"",
    )
    for greeting in greetings:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
            stranger.sendall(greeting)
            stranger.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    assert [person.lost for person in three] == ["", "", ""]
    assert len(three[0]._lines) == 2
    vanish(three[2])
    until(lambda: three[1].lost)


def test_the_kernel_asks_after_a_silent_machine_for_less_than_half_a_minute(three):
    line = three[1]._lines[0]
    silence, interval, count = (
        line.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}")) for name in ("IDLE", "INTVL", "CNT")
    )
    assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert silence + interval * count <= 20


def test_a_file_asks_for_a_checkpoint_as_a_signal_does(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    (tmp_path / "stop").touch()
    obey(tmp_path / "stop")
    assert sent == [15]
