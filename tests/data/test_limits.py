"""What others wrote cannot hold a run up: chat templates run in a sandbox and end."""

import signal
import threading
from contextlib import suppress

import pytest

from data import chat
from data.errors import DataError
from data.limits import time_limit
from data.templates import TEMPLATES
from tests.stages.tiny import tokenizer_of


def spin():
    while True:
        pass


def test_code_that_never_ends_is_ended_with_the_error_that_was_given():
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(DataError, match="too slow"), time_limit(0.05, DataError("too slow")):
        spin()
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_no_handler_between_can_swallow_the_end():
    def deaf():
        while True:
            with suppress(Exception):
                spin()

    with pytest.raises(DataError, match="too slow"), time_limit(0.05, DataError("too slow")):
        deaf()


def test_code_in_time_and_code_in_another_thread_go_on():
    with time_limit(60.0, DataError("too slow")):
        pass
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0.0
    done = []

    def work():
        with time_limit(0.001, DataError("too slow")):
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.fixture
def tokenizer():
    def make(template):
        made = tokenizer_of(["a", "b"])
        made.chat_template = template
        return made

    return make


def test_a_template_that_never_ends_is_told_when_it_is_checked(tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 0.2)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match=r"the chat template did not end within 0.2 seconds"):
        chat.check_template(tokenizer(endless + TEMPLATES["turns"].template))


@pytest.mark.parametrize(
    "escape",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__.os.system('true') }}"],
)
def test_a_template_cannot_leave_its_sandbox(tokenizer, escape):
    with pytest.raises(DataError):
        chat.check_template(tokenizer(escape + TEMPLATES["turns"].template))
