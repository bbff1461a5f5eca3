"""Rewards over HTTP, against a server on this machine that can be told to misbehave."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stages.contract import StageError
from stages.core import remote
from stages.core.answers import Answers
from stages.core.config import Remote
from stages.core.generation import Completion
from stages.core.remote import RemoteScorer
from stages.evaluate.config import Evaluate
from stages.ppo.config import PPO


class Judge:
    """Scores an answer by its length; `script` holds what to do instead for the next requests."""

    def __init__(self) -> None:
        self.asked, self.script, judge = [], [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.asked.append(body)
                step = judge.script.pop(0) if judge.script else None
                if step == "slow":
                    time.sleep(0.5)
                if step == "torn":
                    self.protocol_version = "HTTP/1.1"
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"40\r\n{")
                    self.close_connection = True
                    return
                if step == "drip":
                    self.send_response(200)
                    self.end_headers()
                    with suppress(OSError):  # who has waited long enough hangs up
                        for _ in range(20):
                            self.wfile.write(b" ")
                            time.sleep(0.05)
                    return
                if step == "garbage":
                    self.wfile.write(b"no HTTP at all\r\n\r\n")
                    return
                if isinstance(step, int):
                    self.send_response(step)
                    if step == 302:
                        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                    self.end_headers()
                    return
                answer = step if isinstance(step, str) and step != "slow" else json.dumps({"scores": [len(a) for a in body["answers"]]})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def judge():
    judge = Judge()
    yield judge
    judge.server.shutdown()
    judge.server.server_close()


def answers(count=5):
    completions = [Completion([7] * (n + 1), n % 2 == 0, [0.0] * (n + 1)) for n in range(count)]
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(count)]
    return Answers(prompts, [[3]] * count, completions, ["x" * n for n in range(count)], [{"value": n} for n in range(count)])


def scorer(judge, **settings):
    waits: list[float] = []
    return RemoteScorer(Remote(url=judge.url, **settings), waits.append), waits


def test_answers_are_sent_in_batches_and_scores_come_back_in_order(judge):
    found = scorer(judge, batch=2)[0].score(answers())
    assert found[""].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [len(each["answers"]) for each in judge.asked] == [2, 2, 1]
    assert judge.asked[1] == {
        "prompts": answers().prompts[2:4],
        "answers": ["xx", "xxx"],
        "finished": [True, False],
        "references": [{"value": 2}, {"value": 3}],
    }


def test_a_server_that_is_busy_or_slow_is_asked_again_after_longer_and_longer_waits(judge):
    judge.script = [503, "slow", 429]
    one, waits = scorer(judge, timeout_seconds=0.2)
    assert one.score(answers(2))[""].tolist() == [0.0, 1.0]
    assert len(judge.asked) == 4
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("script", "settings", "says", "requests"),
    [
        (["torn", "torn"], {"retries": 1}, r"IncompleteRead.*after 2 tries", 2),
        (["garbage", "garbage"], {"retries": 1}, r"no HTTP at all.*after 2 tries", 2),
        ([500, 500], {"retries": 1}, r"it answered 500 .*after 2 tries", 2),
        ([404], {}, r"it answered 404 .*after 1 tries", 1),
        ([302], {}, r"it answered 302 .*after 1 tries", 1),
        (["slow"], {"retries": 0, "timeout_seconds": 0.1}, "timed out", 1),
        (["drip"], {"retries": 0, "timeout_seconds": 0.2}, "took longer than 0.2 s", 1),
        (["{nonsense"], {"retries": 0}, "after 1 tries", 1),
        (['{"scores": [1.0]}'], {}, "wanted `scores` with 2 numbers", 1),
        (['{"scores": [1.0, "2"]}'], {}, "wanted `scores` with 2 numbers", 1),
        (['{"scores": [1.0, NaN]}'], {}, "wanted `scores` with 2 numbers", 1),
        (["[1, 2]"], {}, "wanted `scores`", 1),
    ],
)
def test_a_server_that_gives_no_scores_ends_the_stage_with_a_sentence(judge, script, settings, says, requests):
    judge.script = script
    with pytest.raises(StageError, match=says) as error:
        scorer(judge, **settings)[0].score(answers(2))
    assert judge.url in str(error.value)
    assert len(judge.asked) == requests


def test_whoever_waits_for_a_server_goes_on_giving_signs_of_life(monkeypatch):
    signs, slept = [], []
    monkeypatch.setattr(remote, "beat", lambda: signs.append(len(slept)))
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    remote.patiently(24.0)
    assert slept == [10.0, 10.0, 4.0]
    assert signs == [0, 1, 2]
    gone = RemoteScorer(Remote(url="http://127.0.0.1:9/score", retries=2), lambda seconds: None)
    with pytest.raises(StageError, match="after 3 tries"):
        gone.score(answers(1))
    assert len(signs) == 6, "one a try"


def test_a_server_that_is_not_there_is_named(judge):
    gone = RemoteScorer(Remote(url="http://127.0.0.1:9/score", retries=0))
    with pytest.raises(StageError, match=r"127\.0\.0\.1:9.*refused"):
        gone.score(answers(1))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://judge.example/score", "unencrypted"),
        ("https://me:secret@judge.example/score", "no place for a user name"),
        ("ftp://judge.example/score", "wanted https"),
        ("judge.example/score", "wanted https"),
    ],
)
def test_an_unsafe_address_is_refused_with_the_recipe(url, says):
    with pytest.raises(ValueError, match=says):
        Remote(url=url)


def test_answers_go_only_to_hosts_that_the_recipe_allows():
    remote = {"remote": {"url": "https://judge.example/score"}}
    ppo = {"model": "m", "rewards": [remote], "prompts": [{"path": "p"}], "steps": 20}
    exam = {"models": ["m"], "tasks": [{"name": "t", "prompts": [{"path": "p"}], "rule": "json"}], "rewards": [remote]}
    for kind, settings in ((PPO, ppo), (Evaluate, exam)):
        with pytest.raises(ValueError, match=r"sent to judge\.example, which `remote_hosts` does not name"):
            kind.model_validate(settings)
        with pytest.raises(ValueError, match="does not name"):
            kind.model_validate(settings | {"remote_hosts": ["example", "judge.example.org"]})
        assert kind.model_validate(settings | {"remote_hosts": ["judge.example"]})
