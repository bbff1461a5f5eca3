"""Sampler and trainer agree, whatever the adapter: what the sampler says of a token it drew, the trainer says again, and a policy begins as its reference.

On whole stages, with prompts of several lengths (so that the sampler pads) and micro-batches that cut them.
"""

import pytest

from stages.contract import Hardware
from stages.core.metrics import read
from stages.registry import config_class, run_function
from tests.stages.adapters.chain import Chain

SORTS = {
    "LoRA": {"kind": "lora", "rank": 4},
    "rsLoRA": {"kind": "lora", "rank": 4, "rslora": True},
    "DoRA": {"kind": "lora", "rank": 4, "dora": True},
    "LoRA with embeddings": {"kind": "lora", "rank": 4, "modules_to_save": ["embed_tokens"]},
    "IA3": {"kind": "ia3"},
    "prefix": {"kind": "prefix", "tokens": 3},
    "prefix with its network": {"kind": "prefix", "tokens": 3, "projection": True},
    "P-tuning": {"kind": "p-tuning", "tokens": 3},
    "prompt": {"kind": "prompt", "tokens": 3},
}
CASES = [(sort, policy) for sort in SORTS for policy in ("stack", "continue")]
CASES = [case for case in CASES if case[1] == "continue" or case[0] in ("LoRA", "DoRA", "IA3")]


@pytest.mark.parametrize(("sort", "policy"), CASES, ids=[" ".join(case) for case in CASES])
def test_sampler_and_trainer_agree_and_the_policy_begins_as_its_reference(sort, policy, tmp_path):
    """On an adapter that SFT has trained: a new one on top of it, or the same going on."""
    chain, own = Chain(tmp_path), {**SORTS[sort], "hand_over": policy}
    chain.run("chat", "sft", adapter=own, optimizer={"learning_rate": 0.05})
    job = chain.job("policy", "ppo", model="chat", adapter=own, steps=2, batch=8, minibatches=2, kl={"coefficient": 0.1})
    job = job.model_copy(update={"hardware": Hardware(gpus=0, threads=1, micro_batch=3)})
    run_function("ppo")(job, config_class("ppo").model_validate(job.config), job.hardware)
    lines = read(job.folder / "metrics.jsonl")
    rollouts = [line for line in lines if "sampler_difference" in line]
    assert len(rollouts) == 2
    assert max(line["sampler_difference"] for line in rollouts) <= 1e-4
    assert max(line["first_ratio_error"] for line in rollouts) <= 1e-5
    assert next(line["held_out_kl"] for line in lines if "held_out_kl" in line) == 0.0
    assert rollouts[0]["kl"] == 0.0
    assert rollouts[1]["kl"] != 0.0, "nothing was learned"
