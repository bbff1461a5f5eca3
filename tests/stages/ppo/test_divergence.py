"""A gradient of PPO that is not finite: stopped, its minibatch skipped, or rolled back; and resumed to the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from stages.contract import Checkpoints, Divergence, StageError
from stages.core import metrics
from stages.core.divergence import RolledBack
from stages.core.interrupt import Interrupted
from stages.ppo.config import PPO
from stages.ppo.players import Player
from stages.ppo.run import run
from tests.stages.ppo.small import ppo_job
from tests.stages.ppo.test_stage import StopAfter


@pytest.fixture
def poisoned(monkeypatch):
    """Spoils the gradient of one player's update with that number (from 0)."""

    def spoil(name, number):
        step = Player.step

        def poisoned_step(self):
            if self.name == name and self.taken == number:
                next(p for p in self.module.parameters() if p.grad is not None).grad.fill_(float("inf"))
            return step(self)

        monkeypatch.setattr(Player, "step", poisoned_step)

    return spoil


def job_of(folder, **divergence):
    job = ppo_job(folder, steps=6)
    return job.model_copy(update={"divergence": Divergence(**divergence), "checkpoints": Checkpoints(every_steps=2)})


def done(job):
    return run(job, PPO.model_validate(job.config), job.hardware)


def weights(job):
    return torch.cat([tensor.flatten() for tensor in load_file(job.artifact / "model.safetensors").values()])


def rate(job):
    return {line["step"]: line["learning_rate"] for line in metrics.read(job.folder / "metrics.jsonl") if "reward" in line}


def test_it_stops_and_names_player_rollout_answers_and_checkpoint(tmp_path, poisoned):
    job = job_of(tmp_path / "run")
    poisoned("critic", 5)  # two updates a rollout: the second one of the third
    with pytest.raises(
        StageError, match=r"critic's gradient is not finite .* at step 3, in minibatch 1 \(answers .*checkpoint is step-000002"
    ):
        done(job)
    kept = json.loads((job.folder / "attempts/1/diverged-3-1.json").read_text())
    assert len(kept) == 8
    assert all({"sample", "prompt_ids", "text", "reward"} == set(answer) for answer in kept)


@pytest.mark.parametrize("player", ["policy", "critic"])
def test_a_skipped_minibatch_is_counted_and_skipped_again_after_a_stop(tmp_path, poisoned, monkeypatch, player):
    poisoned(player, 5)
    whole, cut = (job_of(tmp_path / name / "run", action="skip") for name in ("whole", "cut"))
    result = done(whole)
    assert result.metrics["skipped_batches"] == 1.0
    assert weights(whole).isfinite().all()
    with monkeypatch.context() as patch:
        patch.setattr("stages.ppo.run.interruptible", lambda: StopAfter(4))
        with pytest.raises(Interrupted):
            done(cut)
    done(cut)
    assert torch.equal(weights(whole), weights(cut))


def test_a_roll_back_goes_on_from_the_checkpoint_at_half_the_rate(tmp_path, poisoned, monkeypatch):
    job, plain = job_of(tmp_path / "a" / "run", action="rollback"), job_of(tmp_path / "b" / "run")
    done(plain)
    with monkeypatch.context():
        poisoned("policy", 5)
        with pytest.raises(RolledBack, match=r"step-000002 with 0.5 of the learning rate"):
            done(job)
    monkeypatch.undo()
    assert done(job).metrics["roll_backs"] == 1.0
    assert [round(rate(job)[step] / rate(plain)[step], 6) for step in (1, 2, 3, 5)] == [1, 1, 0.5, 0.5]
