"""Best-of-n and rejection sampling as a data set: the right answers are kept, whatever the batching, interrupted or not."""

import json

import numpy as np
import pytest

from data.errors import DataError
from data.records import read_records
from stages.contract import Checkpoints, Hardware
from stages.core.interrupt import Interrupted
from stages.core.rules import load_rule
from stages.core.statistics import best_of
from stages.sample import run as stage
from stages.sample.choosing import Drawn, chosen
from stages.sample.config import Sample
from tests.stages.ppo.small import WORDS
from tests.stages.tiny import causal_lm, job_of, saved, tokenizer_of


def test_the_best_different_finished_answers_are_kept_in_order():
    answers = [
        Drawn("a", True, 1.0),
        Drawn("b", True, 3.0),
        Drawn("c", False, 9.0),
        Drawn("b", True, 3.0),
        Drawn(" ", True, 8.0),
        Drawn("d", True, 1.0),
    ]
    assert [each.text for each in chosen(answers, keep=3)] == ["b", "a", "d"]
    assert [each.text for each in chosen(answers, keep=1)] == ["b"]
    assert [each.text for each in chosen(answers, keep=9, least=2.0)] == ["b"]
    assert [each.text for each in chosen(answers, keep=1, unfinished=True)] == ["c"]
    assert chosen(answers, keep=2, least=5.0) == []


@pytest.fixture
def sample(tmp_path):
    tokenizer = tokenizer_of(WORDS)
    saved(causal_lm(tokenizer, seed=1), tokenizer, tmp_path / "chat")
    rows = [{"prompt": f"say the word {word}" + " please" * (number % 3), "reference": word} for number, word in enumerate(WORDS * 2)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(name="stage", hardware=None, checkpoints=None, **changes):
        config = {"model": "chat", "prompts": [{"path": "prompts.jsonl"}], "rewards": [{"rule": "length:3"}], "unfinished": True}
        config |= {"samples": 4, "sampling": {"max_new_tokens": 6}} | changes
        inputs = {"model": ("causal-lm", tmp_path / "chat")}
        job = job_of(tmp_path / name, "sample", config, inputs=inputs, files={"prompts.0": [tmp_path / "prompts.jsonl"]})
        job = job.model_copy(update={"hardware": hardware or job.hardware, "checkpoints": checkpoints or job.checkpoints})
        return job, lambda: stage.run(job, Sample.model_validate(job.config), job.hardware)

    return make


def chats(job):
    return [json.loads(line) for line in (job.artifact / "chats.jsonl").read_text().splitlines()]


def test_what_is_kept_is_the_best_of_what_was_drawn_and_sft_can_read_it(sample):
    from data.config import Source
    from data.formats import Chat

    job, run = sample()
    result = run()
    rows, rule = chats(job), load_rule("length:3")
    assert len(rows) == result.metrics["kept"] == 24
    for row in rows:
        assert row["reward"] == pytest.approx(rule([], row["messages"][-1]["content"], True, None))
    every, drawn = sample("all", keep=4)
    whole = drawn()
    assert result.metrics["reward"] == whole.metrics["reward"]
    assert result.metrics["reward_kept"] > result.metrics["reward"]
    assert len(chats(every)) > 24
    records = read_records([Source(path="chats.jsonl")], [[job.artifact / "chats.jsonl"]], Chat).records
    assert [message["role"] for message in records[0].messages] == ["user", "assistant"]
    assert json.loads((job.artifact / "artifact.json").read_text())["kind"] == "dataset"


def test_the_mean_reward_of_the_best_is_the_one_that_evaluate_foretells(sample):
    """Of 4 drawn answers the best one's reward, averaged over prompts, is best_of(4); unfinished and equal ones count alike."""
    job, run = sample()
    found = run().metrics["reward_kept"]
    drawn = json.loads(next((job.folder / "checkpoints").glob("step-*")).joinpath("drawn.json").read_text())["rewards"]
    rewards = np.array(drawn).reshape(-1, 4)
    assert found == pytest.approx(float(best_of(rewards, rewards, 4).mean()), abs=1e-6)


def test_neither_batching_nor_an_interruption_changes_what_is_kept(sample, monkeypatch):
    whole, run = sample("whole")
    run()
    one_by_one, run = sample("small", hardware=Hardware(gpus=0, threads=1, micro_batch=3))
    monkeypatch.setattr(stage, "ANSWERS_AT_ONCE", 20)
    run()
    assert chats(one_by_one) == chats(whole)
    cut, run = sample("cut", checkpoints=Checkpoints(every_steps=1))
    asked = iter([False, True])

    class Twice:
        def __enter__(self):
            return lambda: next(asked, False)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(stage, "interruptible", Twice)
    with pytest.raises(Interrupted, match="stopped after 10 of 24 prompts"):
        run()
    run()
    assert chats(cut) == chats(whole)
    lines = [json.loads(line)["step"] for line in (cut.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [5, 10, 15, 20, 24]


def test_rejecting_everything_is_told_with_the_highest_reward(sample):
    with pytest.raises(DataError, match=r"no answer of 96 was kept \(highest reward 0\)"):
        sample(rewards=[{"rule": "regex:impossible"}], least=1.0)[1]()


def test_settings_that_cannot_be_are_refused():
    base = {"model": "m", "prompts": [{"path": "p"}], "rewards": [{"rule": "exact"}]}
    with pytest.raises(ValueError, match="keep 9 is more than samples 8"):
        Sample.model_validate(base | {"keep": 9})
    with pytest.raises(ValueError, match="remote_hosts"):
        Sample.model_validate(base | {"rewards": [{"remote": {"url": "https://judge.example"}}]})


def test_answers_that_do_not_come_are_noticed(sample, monkeypatch):
    """The stage is watched, and every token is a sign of life."""
    from stages.core import watchdog

    limits, signs = [], []
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", lambda seconds, **_: limits.append(seconds))
    monkeypatch.setattr(watchdog.Watchdog, "beat", lambda self, beat=watchdog.Watchdog.beat: signs.append(beat(self)))
    _, run = sample(hardware=Hardware(gpus=0, threads=1, step_timeout=77.0))
    run()
    assert limits == [77.0]
    assert len(signs) > 6
