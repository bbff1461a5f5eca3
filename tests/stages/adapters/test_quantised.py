"""QLoRA for real, on a CPU: a base of four bits that trains, hands over and reloads in every stage, and what `dequantise` merges."""

import pytest
import torch

from stages.contract import Hardware, StageError
from stages.core.metrics import read
from stages.core.models import load_causal_lm, load_reward_model
from stages.core.parity import distance, stated_probe
from tests.stages.adapters.chain import Chain

pytest.importorskip("bitsandbytes")
CPU = Hardware(gpus=0)
QLORA = {"kind": "qlora", "rank": 4}


@pytest.mark.parametrize("policy", ["stack", "continue", "merge"])
def test_sft_reward_and_ppo_on_four_bits_begin_where_the_stage_before_ended(policy, tmp_path):
    chain, own = Chain(tmp_path), {**QLORA, "hand_over": policy, "dequantise": policy == "merge"}
    chain.run("chat", "sft", adapter=own)
    chain.run("judge", "reward", model="chat", adapter=own)
    result = chain.run("policy", "ppo", model="chat", judge="judge", adapter=own)
    for name, load in (("chat", load_causal_lm), ("judge", load_reward_model), ("policy", load_causal_lm)):
        says = chain.says(name)
        assert says.reload_difference <= 1e-5
        assert (says.adapters is None) == (policy == "merge")
        assert distance(stated_probe(chain.artifact(name)), load(chain.artifact(name), CPU)) <= 1e-5
    lines = read(tmp_path / "policy-0/metrics.jsonl")
    assert max(line["sampler_difference"] for line in lines if "sampler_difference" in line) <= 1e-4
    assert next(line["held_out_kl"] for line in lines if "held_out_kl" in line) == 0.0
    assert (result.metrics["start_distance"] <= 1e-5) == (policy != "merge"), "what is merged is rounded anew"


def test_the_base_is_held_in_four_bits_and_what_is_merged_is_what_was_trained(tmp_path):
    from stages.adapters.building import add_adapter, merged
    from stages.adapters.config import QLora
    from stages.core.models import load_base
    from tests.stages.adapters.made import disturbed

    chain = Chain(tmp_path)
    model = load_base(chain.base, CPU, "CAUSAL_LM", QLora())
    held = model.model.layers[0].self_attn.q_proj.weight
    assert held.dtype == torch.uint8
    assert held.numel() == 32 * 32 // 2
    model = disturbed(add_adapter(model, QLora(rank=4), "CAUSAL_LM"))
    ids = torch.randint(5, 15, (2, 9))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        whole = merged(model).eval()
        assert whole.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
        torch.testing.assert_close(whole(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


def test_an_export_merges_into_what_the_four_bits_read_and_not_into_the_full_base(tmp_path):
    from transformers import AutoModelForCausalLM

    from stages.adapters.exporting import export
    from stages.adapters.tasks import Export, Part

    chain = Chain(tmp_path)
    chain.run("chat", "sft", adapter={**QLORA, "hand_over": "stack"})
    export(Export(parts=(Part(name="chat", folder=chain.artifact("chat")),), out=tmp_path / "out"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert distance(stated_probe(chain.artifact("chat")), whole) <= 1e-4
    assert not hasattr(whole.config, "quantization_config")


def test_a_stack_on_a_base_that_is_rounded_otherwise_is_another_model(tmp_path):
    chain = Chain(tmp_path)
    chain.run("chat", "sft", adapter={**QLORA, "hand_over": "stack"})
    with pytest.raises(StageError, match="does not begin as"):
        chain.run("more", "sft", model="chat", adapter={**QLORA, "double": False, "hand_over": "stack"})
