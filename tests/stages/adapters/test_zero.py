"""Adapters in shards: under ZeRO-2 and 3 on two processes a stage leaves the adapter that one process leaves, beside and on top of earlier ones.

By AdamW that hardly divides, so that bounds can be tight.
"""

import pytest
import torch
from safetensors.torch import load_file

from stages.contract import Hardware, Job
from stages.core.models import load_causal_lm
from stages.core.parity import distance, stated_probe
from tests.stages.adapters.chain import Chain
from tests.stages.together import task, together

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

KINDS = {
    "LoRA": {"kind": "lora", "rank": 4, "hand_over": "stack"},
    "prefix with its network": {"kind": "prefix", "tokens": 3, "projection": True, "hand_over": "continue"},
}
CPU = Hardware(gpus=0)
STAGES = ("sft", "ppo")
WAYS = {"one process": 0, "ZeRO-2": 2, "ZeRO-3": 3}
MORE = {
    "sft": {"epochs": 2, "batch_tokens": 192, "optimizer": {"learning_rate": 0.2}},
    "ppo": {"steps": 3, "ema": 0.5, "policy_optimizer": {"learning_rate": 0.5}, "critic_optimizer": {"learning_rate": 0.1}},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Every kind in SFT and PPO, in every way, on an earlier adapter of its kind."""
    made = Chain(tmp_path_factory.mktemp("zero"))
    jobs: dict[int, list[Job]] = {zero: [] for zero in WAYS.values()}
    for kind, own in KINDS.items():
        made.run(f"first {kind}", "sft", adapter=own)
        for stage in STAGES:
            for zero in WAYS.values():
                job = made.job(name(kind, stage, zero), stage, model=f"first {kind}", adapter=own, **MORE[stage])
                jobs[zero].append(job.model_copy(update={"hardware": Hardware(gpus=0, threads=1, zero=zero, micro_batch=1)}))
    together([task(job) for job in jobs[0]], made.root, processes=1, steady=True)
    together([task(job) for zero in (2, 3) for job in jobs[zero]], made.root, steady=True)
    return made


def name(kind, stage, zero):
    return f"{stage} {kind} {zero}"


def weights(chain, stage):
    """All weights of an artifact, by file and name."""
    folder = chain.artifact(stage)
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)} {key}": tensor for file in files for key, tensor in load_file(file).items()}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way]])
def test_an_adapter_trained_in_shards_is_that_of_one_process(chain, kind, stage, way):
    alone, sharded = (weights(chain, name(kind, stage, zero)) for zero in (0, WAYS[way]))
    assert [key.split("_adapter")[-1] for key in alone] == [key.split("_adapter")[-1] for key in sharded]
    for (key, one), two in zip(alone.items(), sharded.values(), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_shards_leave_is_reloaded_and_is_what_was_trained(chain, kind, stage):
    earlier = stated_probe(chain.artifact(f"first {kind}"))
    for zero in (2, 3):
        folder = chain.artifact(name(kind, stage, zero))
        assert chain.says(name(kind, stage, zero)).reload_difference <= 1e-5
        assert distance(stated_probe(folder), load_causal_lm(folder, CPU)) <= 1e-5
        assert distance(earlier, load_causal_lm(folder, CPU)) > 1e-3, "nothing was learned"
