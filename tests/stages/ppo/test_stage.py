"""The stage as a whole: from a job to a plain model, killed and resumed, with adapters, with rewards of both kinds."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from stages.contract import Checkpoints, Job
from stages.core import checkpoints, metrics
from stages.core.interrupt import Interrupted
from stages.ppo.config import PPO
from stages.ppo.run import run
from tests.stages.ppo.small import ppo_job


def done(job: Job):
    return run(job, PPO.model_validate(job.config), job.hardware)


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.artifact / "model.safetensors")


def numbers(job: Job) -> list[dict]:
    """All logged numbers but those of time."""
    timed = ("seconds", "tokens_per_second", "memory")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in metrics.read(job.folder / "metrics.jsonl")]


def same(one: Job, other: Job) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    assert numbers(one) == numbers(other)


@pytest.mark.parametrize("model_reward", [False, True])
def test_a_job_leaves_a_plain_model_and_says_what_became_of_reward_and_kl(tmp_path, model_reward):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = ppo_job(tmp_path / "run", model_reward=model_reward)
    result = done(job)
    assert {"reward", "kl", "entropy", "clip_fraction", "explained_variance", "eos_rate", "length"} <= result.metrics.keys()
    assert {"held_out_reward", "held_out_kl", "held_out_reward_before"} <= result.metrics.keys()
    assert result.steps == 6
    model = AutoModelForCausalLM.from_pretrained(job.artifact)
    assert AutoTokenizer.from_pretrained(job.artifact).chat_template
    assert model.dtype == torch.float32
    lines = numbers(job)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert result.tables[0].rows[0][0] == 0
    if model_reward:
        assert {"reward_judge", "reward_length"} <= lines[1].keys()


def test_a_tracker_shows_rollouts_and_samples_and_changes_no_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, tracked = ppo_job(tmp_path / "plain" / "policy"), ppo_job(tmp_path / "tracked" / "policy")
    done(plain)
    done(tracked.model_copy(update={"track": ("tensorboard",)}))
    assert numbers(plain) == numbers(tracked)
    found = EventAccumulator(str(tmp_path / "tracked" / "track" / "policy")).Reload()
    lines = [line for line in numbers(tracked) if "reward" in line]
    assert [(event.step, round(event.value, 5)) for event in found.Scalars("reward")] == [(n["step"], round(n["reward"], 5)) for n in lines]
    assert [event.step for event in found.Tensors("samples/text_summary")] == [0, 3, 6]
    assert not (tmp_path / "plain" / "track").exists()


def test_at_the_start_policy_and_reference_are_the_same_and_ratios_are_one(tmp_path):
    job = ppo_job(tmp_path / "run", sampling={"max_new_tokens": 6, "temperature": 0.7})
    done(job)
    lines = numbers(job)
    assert lines[0]["held_out_kl"] == 0.0
    assert lines[1]["kl"] == 0.0
    rollouts = [line for line in lines if "reward" in line]
    assert rollouts[-1]["kl_k3"] > 0.0, "the policy has moved, and the reference has not"
    assert max(line["first_ratio_error"] for line in rollouts) <= 1e-5
    assert max(line["sampler_difference"] for line in rollouts) <= 1e-4


def test_the_policy_does_not_move_while_only_the_critic_learns(tmp_path):
    job = ppo_job(tmp_path / "run", critic_warmup=5)
    done(job)
    lines = [line for line in numbers(job) if "reward" in line]
    assert all("policy_loss" not in line and line["kl"] == 0.0 for line in lines[:5])
    assert "policy_loss" in lines[5]
    assert all(line["critic_grad_norm"] > 0 for line in lines)


def test_the_best_checkpoint_is_linked_by_an_evaluation_of_its_own_and_changes_nothing(tmp_path):
    """Evaluations lie at rollouts 3 and 6, checkpoints at 2, 4 and 6."""
    plain, kept = (ppo_job(tmp_path / name / "run", keep="best") for name in ("plain", "kept"))
    kept = kept.model_copy(update={"checkpoints": Checkpoints(every_steps=2, keep_last=9, keep_best=True)})
    done(plain)
    done(kept)
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(kept)[name]), name
    rewards = {line["step"]: line["held_out_reward"] for line in numbers(kept) if "held_out_reward" in line}
    assert sorted(rewards) == [0, 2, 3, 4, 6]
    seals = {path.parent.name: json.loads(path.read_text())["score"] for path in kept.folder.glob("checkpoints/step-*/COMPLETE")}
    assert seals == {f"step-{step:06d}": rewards[step] for step in (2, 4, 6)}
    assert (kept.folder / "checkpoints" / "best").readlink().name == max(seals, key=lambda name: seals[name])


def test_room_is_looked_for_for_every_copy_of_the_policy(tmp_path, monkeypatch):
    from stages.ppo import run as stage

    savers = []
    monkeypatch.setattr(stage, "saver_of", lambda *given, make=stage.saver_of: savers.append(make(*given)) or savers[-1])
    for number, changes in enumerate(({}, {"ema": 0.5, "keep": "best", "refresh_reference": 2})):
        done(ppo_job(tmp_path / str(number) / "run", **changes))
        newest = checkpoints.latest(savers[-1].folder)
        # Names, shapes and the record of warnings are not counted.
        assert 0.85 <= savers[-1].expected / checkpoints.size_of(newest) <= 1.0


def test_a_wrong_prompt_length_is_told_before_anything_starts(tmp_path):
    from data.errors import DataError

    job = ppo_job(tmp_path / "run", sampling={"max_new_tokens": 96})
    with pytest.raises(DataError, match="no room for a prompt"):
        done(job)


class StopAfter:
    """What `interruptible` yields, for a test that asks to stop after so many looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


ADAPTER = {"kind": "lora", "rank": 4, "alpha": 8.0}
ADAPTIVE = {"coefficient": 0.1, "target": 0.05, "horizon": 64}


@pytest.mark.parametrize("changes", [{}, {"adapter": ADAPTER, "kl": ADAPTIVE, "epochs": 2}], ids=["full", "adapter"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, changes, monkeypatch):
    whole, cut = (ppo_job(tmp_path / name / "run", model_reward=True, **changes) for name in ("whole", "cut"))
    done(whole)
    monkeypatch.setattr("stages.ppo.run.interruptible", lambda: StopAfter(3))
    with pytest.raises(Interrupted, match="rollout 3"):
        done(cut)
    monkeypatch.undo()
    result = done(cut)
    assert result.steps == 6
    same(whole, cut)
    coefficients = [line["coefficient"] for line in numbers(whole) if "reward" in line]
    assert (len(set(coefficients)) > 1) == ("kl" in changes)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    checkpoints = {"checkpoints": {"every_steps": 1}}
    whole, killed = (ppo_job(tmp_path / name / "run", model_reward=True) for name in ("whole", "killed"))
    done(whole)
    (killed.folder / "job.json").write_text(
        killed.model_copy(update={}).model_validate({**killed.model_dump(), **checkpoints}).model_dump_json()
    )
    argv = [sys.executable, "-m", "stages", str(killed.folder / "job.json")]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((killed.folder / "checkpoints").glob("step-*")):
        assert process.poll() is None or list((killed.folder / "checkpoints").glob("step-*"))
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    same(whole, killed)


def test_an_adapters_reference_is_the_model_without_it_and_the_artifact_is_merged(tmp_path):
    job = ppo_job(tmp_path / "run", adapter=ADAPTER)
    done(job)
    lines = numbers(job)
    assert lines[0]["held_out_kl"] == 0.0
    assert lines[-1]["held_out_kl_k3"] > 0.0
    assert not (job.artifact / "adapter_config.json").exists()
