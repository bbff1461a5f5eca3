"""A process that ends without a word is missed by all others, whoever it is; one that takes leave is not."""

import socket
import time

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
