"""Every kind of adapter in every stage under every policy: it runs, passes parity and is handed over, or the plan refuses it with its reason."""

import pytest

from stages.adapters.combinations import Carried, Situation, refusal
from stages.adapters.config import settings_of
from stages.contract import Hardware
from stages.core.models import load_causal_lm, load_reward_model
from stages.core.parity import distance, stated_probe
from tests.stages.adapters.chain import Chain

KINDS = {
    "none": None,
    "LoRA": {"kind": "lora", "rank": 4},
    "rsLoRA": {"kind": "lora", "rank": 4, "rslora": True},
    "DoRA": {"kind": "lora", "rank": 4, "dora": True},
    "prefix": {"kind": "prefix", "tokens": 3},
    "P-tuning": {"kind": "p-tuning", "tokens": 3},
    "prompt": {"kind": "prompt", "tokens": 3},
}
STAGES = ("pretrain", "sft", "reward", "ppo")
POLICIES = ("merge", "stack", "continue")
CELLS = [(kind, stage, policy) for kind in KINDS for stage in STAGES for policy in (POLICIES if kind != "none" else ("merge",))]
CPU = Hardware(gpus=0)


def situation(stage, own, carried=()):
    return Situation(stage, settings_of(own) if own else None, Carried(tuple(settings_of(one) for one in carried)))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage", "policy"), CELLS, ids=lambda value: value)
def test_each_cell_runs_and_hands_over_or_is_refused_with_its_reason(kind, stage, policy, tmp_path):
    own = KINDS[kind] and {**KINDS[kind], "hand_over": policy}
    rule = refusal(situation(stage, own))
    if rule is not None:
        assert rule.reason
        assert rule.way_out
        return
    chain = Chain(tmp_path)
    result = chain.run("first", stage, adapter=own)
    says = chain.says("first")
    assert says.reload_difference <= 1e-4
    neutral = kind not in ("prefix", "P-tuning", "prompt")
    assert (result.metrics["start_distance"] <= 1e-5) == neutral
    unmerged = own is not None and policy != "merge"
    assert (says.adapters is not None) == unmerged
    assert (chain.artifact("first") / "adapter_model.safetensors").exists() == unmerged
    load = load_reward_model if stage == "reward" else load_causal_lm
    assert distance(stated_probe(chain.artifact("first")), load(chain.artifact("first"), CPU)) <= 1e-4
    handed_over(chain, stage, own, unmerged)


def handed_over(chain, stage, own, unmerged):
    """The next stage begins where this one ended, or is refused."""
    later = own if unmerged else None
    carried = [own] if unmerged else []
    if stage == "reward":
        critic = {"critic": "base"} if own and own["kind"] in ("prefix", "p-tuning", "prompt") else {}
        assert chain.run("second", "ppo", judge="first", **critic).metrics["start_distance"] <= 1e-5
        return
    for following in ("sft", "reward"):
        rule = refusal(situation(following, later, carried))
        if rule is not None:
            assert rule.reason
            continue
        result = chain.run(f"second-{following}", following, model="first", adapter=later)
        assert result.metrics["start_distance"] <= 1e-4
        names = chain.says(f"second-{following}").adapters
        if unmerged:
            assert names.names == (
                ["first_adapter"] if own["hand_over"] == "continue" else ["first_adapter", f"second-{following}_adapter"]
            )


def test_the_matrix_holds_refusals_of_every_sort_and_no_full_weights_among_them():
    refused = {
        (kind, stage, policy)
        for kind, stage, policy in CELLS
        if refusal(situation(stage, KINDS[kind] and {**KINDS[kind], "hand_over": policy}))
    }
    prompts = {"prefix", "P-tuning", "prompt"}
    assert refused == {(k, s, p) for k, s, p in CELLS if k in prompts and (p != "continue" or s == "pretrain")}
