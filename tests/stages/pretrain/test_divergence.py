"""A loss that is not finite in the middle of training: stopped, skipped or rolled back, and resumed to the same bits."""

import hashlib
import json

import pytest
import torch

from stages.contract import Checkpoints, Divergence, StageError
from stages.core import causal
from stages.core.boundary import Boundary
from stages.core.divergence import RolledBack
from tests.stages.conftest import stories

STEPS = 9


class Killed(BaseException):
    pass


@pytest.fixture
def job(make_job, base_folder):
    def make(name, **divergence):
        config = {"model": {"hidden_size": 32, "layers": 1, "heads": 4, "context": 64}, "tokenizer": "words", "tokens": STEPS * 128}
        config |= {"data": [{"path": "x"}], "batch_tokens": 128, "optimizer": {"learning_rate": 1e-2, "warmup": 0.0}, "held_out": 0.1}
        rows = {"data.0": [{"text": text} for text in stories(100)]}
        more = {"checkpoints": Checkpoints(every_steps=2), "divergence": Divergence(**divergence)}
        return make_job("pretrain", config, name=name, inputs={"tokenizer": ("tokenizer", base_folder)}, rows=rows, **more)

    return make


@pytest.fixture
def run(monkeypatch, run_stage):
    """Runs a job whose loss is not a number in the steps `bad`; `weights_at` collects a digest of the weights after every step."""

    def go(job, *, bad=(), kill_at=None, weights_at=None):
        state = {"step": 0}
        begin, end, loss = Boundary.on_step_begin, Boundary.on_step_end, causal.CausalTraining.summed_loss

        def on_step_begin(self, args, trainer_state, control, **kwargs):
            state["step"] = trainer_state.global_step + 1
            begin(self, args, trainer_state, control, **kwargs)

        def on_step_end(self, args, trainer_state, control, model=None, **kwargs):
            if weights_at is not None:
                weights_at[state["step"]] = float(sum(p.detach().double().abs().sum() for p in model.parameters()))
            if state["step"] == kill_at:
                self._trainer.saver.finish()  # a kill ends its thread; here that would go on beneath the next attempt
                raise Killed
            end(self, args, trainer_state, control, **kwargs)

        def summed_loss(self, model, batch):
            found = loss(self, model, batch)
            return found * float("nan") if state["step"] in bad else found

        with monkeypatch.context() as patch:
            patch.setattr(Boundary, "on_step_begin", on_step_begin)
            patch.setattr(Boundary, "on_step_end", on_step_end)
            patch.setattr(causal.CausalTraining, "summed_loss", summed_loss)
            return run_stage(job)

    return go


def digest(job):
    return hashlib.sha256((job.artifact / "model.safetensors").read_bytes()).hexdigest()


def lines(job):
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stop_names_the_rows_and_keeps_their_text(job, run):
    stopped = job("stopped")
    with pytest.raises(StageError, match=r"not finite \(loss nan, gradient norm nan\) at step 5, in rows 8 to 9 .*step-000004"):
        run(stopped, bad=(5,))
    kept = json.loads((stopped.folder / "attempts/1/diverged-5.json").read_text())
    assert [entry["row"] for entry in kept] == [8, 9]
    assert all(text.endswith(".<|eos|>") for entry in kept for text in entry["texts"])


def test_a_skipped_batch_leaves_the_weights_alone_and_no_trace_in_the_record(job, run):
    skipped, seen = job("skipped", action="skip"), {}
    result = run(skipped, bad=(5,), weights_at=seen)
    assert seen[4] == seen[5] != seen[6]
    assert result.metrics["skipped_batches"] == 1.0
    assert any("at step 5" in note and note.endswith(": skipped") for note in result.notes)
    record = {line["step"]: line["loss"] for line in lines(skipped)}
    assert record[5] is None
    assert all(record[step] > 0 for step in record if step != 5)
    model_is_finite = torch.tensor(list(seen.values())).isfinite().all()
    assert model_is_finite


def test_a_skipped_batch_is_skipped_again_after_a_kill(job, run):
    whole, killed = job("whole", action="skip"), job("killed", action="skip")
    run(whole, bad=(5,))
    with pytest.raises(Killed):
        run(killed, bad=(5,), kill_at=5)
    result = run(killed, bad=(5,))
    assert digest(killed) == digest(whole)
    assert result.metrics["skipped_batches"] == 1.0


def test_a_roll_back_goes_on_from_the_checkpoint_at_half_the_rate_and_resumes_to_the_same_bits(job, run):
    whole, killed = job("whole", action="rollback"), job("killed", action="rollback")
    for each in (whole, killed):
        with pytest.raises(RolledBack, match=r"goes on from step-000004 with 0.5 of the learning rate"):
            run(each, bad=(5,))
    plain = job("plain")
    run(plain)
    result = run(whole)
    assert result.metrics["roll_backs"] == 1.0
    with pytest.raises(Killed):
        run(killed, kill_at=7)
    run(killed)
    assert digest(killed) == digest(whole) != digest(plain)
    rates = {line["step"]: line["learning_rate"] for line in lines(whole)}
    usual = {line["step"]: line["learning_rate"] for line in lines(plain)}
    assert [round(rates[step] / usual[step], 6) for step in range(1, 9)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]


def test_after_a_stop_the_stage_can_go_on_under_another_policy(job, run):
    stopped = job("stopped")
    with pytest.raises(StageError):
        run(stopped, bad=(5,))
    result = run(stopped.model_copy(update={"divergence": Divergence(action="skip")}), bad=(5,))
    assert result.steps == STEPS
