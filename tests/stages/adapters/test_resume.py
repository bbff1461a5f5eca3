"""A killed stage with an adapter goes on to the same bits, what peft's own checkpoints would lose included."""

import pytest
import torch
from safetensors.torch import load_file

from stages.contract import Checkpoints
from stages.core.interrupt import Interrupted
from stages.registry import config_class, run_function
from tests.stages.adapters.chain import Chain

KINDS = {
    "stack": {"kind": "lora", "rank": 4, "dropout": 0.2, "plus_ratio": 4.0, "hand_over": "stack"},
    "prefix with its network": {"kind": "prefix", "tokens": 3, "projection": True, "hand_over": "continue"},
    "P-tuning": {"kind": "p-tuning", "tokens": 3, "hand_over": "continue"},
}


class StopAfter:
    """What `interruptible` yields: asks to stop after so many looks."""

    def __init__(self, looks):
        self.left = looks

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __call__(self):
        self.left -= 1
        return self.left <= 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_interrupted_and_gone_on_with_equals_uninterrupted(kind, stage, tmp_path, monkeypatch):
    chain, own = Chain(tmp_path), KINDS[kind]
    chain.run("first", "sft", adapter=own)
    more = {"steps": 3} if stage == "ppo" else {"epochs": 2}

    def run(name):
        job = chain.job(name, stage, model="first", adapter=own, **more).model_copy(update={"checkpoints": Checkpoints(every_steps=1)})
        return run_function(stage)(job, config_class(stage).model_validate(job.config), job.hardware)

    run("whole")
    monkeypatch.setattr(f"stages.{stage}.run.interruptible", lambda: StopAfter(2))
    with pytest.raises(Interrupted):
        run("cut")
    monkeypatch.undo()
    run("cut")
    whole, cut = files(chain, "whole"), files(chain, "cut")
    assert len(whole) == len(cut) == 2
    for one, other in zip(whole, cut, strict=True):
        mine, theirs = load_file(one), load_file(other)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), one.name


def files(chain, name):
    """Weights of a stage's adapters, the earlier one's of a stack first; of virtual tokens also their network's."""
    names = chain.says(name).adapters.names
    folders = [chain.artifact(name)] if len(names) == 1 else [chain.artifact(name) / adapter for adapter in names]
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
