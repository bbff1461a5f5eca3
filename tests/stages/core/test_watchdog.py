"""A sign of life is wherever work goes on; without one for too long, a stage of whatever kind is ended."""

import faulthandler

import pytest

from stages.contract import Hardware, Job
from stages.core import watchdog
from stages.core.watchdog import beat, stacks, watching


@pytest.fixture
def clock(monkeypatch):
    """Time that a test moves, and the moments at which the watchdog would bite, as it sets them."""

    class Clock:
        now = 0.0
        bites: list[float | None] = []

    Clock.bites = []
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: Clock.bites.append(Clock.now + seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: Clock.bites.append(None))
    return Clock


def job(folder, seconds):
    return Job(stage="a", kind="sample", folder=folder, seed=1, config={}, hardware=Hardware(gpus=0, step_timeout=seconds))


def test_each_sign_of_life_puts_the_end_off_and_closing_takes_it_away(tmp_path, clock):
    clock.now = 100.0
    with watching(job(tmp_path, 10.0)):
        assert clock.bites == [110.0]
        clock.now = 104.0
        beat()
        assert clock.bites == [110.0, 114.0]
    assert clock.bites[-1] is None
    assert not stacks(job(tmp_path, 10.0), 0).exists()
    beat()
    assert clock.bites[-1] is None, "nobody watches any more"


def test_no_limit_means_that_nobody_watches(tmp_path, clock):
    with watching(job(tmp_path, None)):
        beat()
    assert clock.bites == []
