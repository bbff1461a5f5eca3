"""sft -> reward -> ppo with adapters: nothing is lost between stages, whatever the policy, and full weights say the same in their own chain."""

import json
import math

import pytest
import torch

from stages.adapters.prompts import prompt_length
from stages.contract import Hardware, StageError
from stages.core import parity
from stages.core.logprobs import completion_logprobs
from stages.core.metrics import read
from stages.core.models import load_causal_lm, load_reward_model
from stages.core.rewards import last_token_scores
from tests.stages.adapters.chain import Chain

CPU = Hardware(gpus=0)
PROMPTS, ANSWERS = [[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]]
LORA = {"kind": "lora", "rank": 4}


def said(model):
    return completion_logprobs(model, PROMPTS, ANSWERS)[0]


def stranger(chain, name, head=False):
    """A stage's model by public loaders alone: transformers for whole models, peft on the base for adapters."""
    import peft
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    says, folder = chain.says(name) if name != "base" else None, chain.artifact(name)
    auto, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if head else (AutoModelForCausalLM, {})
    if says is None or says.adapters is None:
        return auto.from_pretrained(folder).eval()
    model, names = auto.from_pretrained(chain.base, **more), says.adapters.names
    folders = [folder if len(names) == 1 else folder / name for name in names]
    model = peft.PeftModel.from_pretrained(model, str(folders[0]), names[0])
    for other, place in list(zip(names, folders, strict=True))[1:]:
        model.load_adapter(str(place), other)
    if len(names) > 1:
        model.base_model.set_adapter(names)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "merge", "stack", "continue"])
def test_policy_and_judge_begin_as_what_sft_and_reward_left(policy, tmp_path, monkeypatch):
    from stages.ppo import run as stage

    seen = {}
    real = stage.build_players

    def watched(job, config, hardware, start, tokenizer, ranks):
        players, how = real(job, config, hardware, start, tokenizer, ranks)
        seen["start"] = said(players.policy.module.model)
        batch = parity.fixed_ids(players.policy.module.model)
        from stages.core.logprobs import batch_of

        rows = batch_of([row[:4] for row in batch.tolist()], [row[4:] for row in batch.tolist()])
        with torch.no_grad():
            seen["distance"] = float((players.policy.module(rows)[0] - players.reference(rows)[0]).abs().max())
        return players, how

    monkeypatch.setattr(stage, "build_players", watched)
    chain, own = Chain(tmp_path), None if policy == "full" else {**LORA, "hand_over": policy}
    chain.run("chat", "sft", adapter=own)
    chain.run("judge", "reward", model="chat", adapter=own)
    result = chain.run("policy", "ppo", model="chat", judge="judge", adapter=own)

    torch.testing.assert_close(seen["start"], said(stranger(chain, "chat")), rtol=0, atol=1e-5)
    assert (said(stranger(chain, "chat")) - said(stranger(chain, "base"))).abs().max() > 1e-2
    assert seen["distance"] == 0.0
    assert result.metrics["start_distance"] <= 1e-5
    ids = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    judge = stranger(chain, "judge", head=True)
    theirs = torch.tensor([float(judge(input_ids=torch.tensor([row])).logits[0, -1]) for row in ids])
    torch.testing.assert_close(last_token_scores(load_reward_model(chain.artifact("judge"), CPU), ids), theirs, rtol=0, atol=1e-5)
    assert theirs.abs().max() > 0
    first = next(line for line in read(tmp_path / "policy-0/metrics.jsonl") if "held_out_kl" in line)
    assert first["held_out_kl"] == 0.0
    torch.testing.assert_close(said(load_causal_lm(chain.artifact("policy"), CPU)), said(stranger(chain, "policy")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["merge", "stack", "continue"])
def test_embeddings_kept_with_an_adapter_reach_the_artifact_the_next_stage_and_a_stranger(policy, tmp_path):
    from safetensors.torch import load_file

    chain, own = Chain(tmp_path), {**LORA, "modules_to_save": ["embed_tokens"], "hand_over": policy}
    chain.run("chat", "sft", adapter=own)
    key = "model.embed_tokens.weight"
    held = load_file(chain.artifact("chat") / ("model.safetensors" if policy == "merge" else "adapter_model.safetensors"))
    found = [tensor for name, tensor in held.items() if name.endswith((key, "lm_head.weight"))]
    assert all(torch.equal(one, found[0]) for one in found)
    assert (found[0] - load_file(chain.base / "model.safetensors")[key]).abs().max() > 1e-3
    torch.testing.assert_close(said(load_causal_lm(chain.artifact("chat"), CPU)), said(stranger(chain, "chat")), rtol=0, atol=1e-5)
    if policy != "stack":  # which the rules refuse
        following = {**own, "hand_over": "merge"} if policy == "continue" else LORA
        result = chain.run("policy", "ppo", model="chat", adapter=following)
        assert result.metrics["start_distance"] <= 1e-5
        first = next(line for line in read(tmp_path / "policy-0/metrics.jsonl") if "held_out_kl" in line)
        assert first["held_out_kl"] == 0.0


def test_a_run_that_moved_still_finds_the_base_of_its_adapters_and_a_lost_base_is_told(tmp_path):
    from data.errors import DataError

    (tmp_path / "here").mkdir()
    chain = Chain(tmp_path / "here")
    chain.run("chat", "sft", adapter={**LORA, "hand_over": "stack"})
    config = json.loads((chain.artifact("chat") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../../base-0/artifact"
    assert str(tmp_path) not in json.dumps(config)
    expected = said(load_causal_lm(chain.artifact("chat"), CPU))
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there/chat-0/artifact"
    assert torch.equal(said(load_causal_lm(moved, CPU)), expected)
    (tmp_path / "there/base-0").rename(tmp_path / "there/elsewhere")
    with pytest.raises(DataError, match=r"is an adapter on \.\./\.\./base-0/artifact, which is not there"):
        load_causal_lm(moved, CPU)


def test_a_start_that_is_another_model_than_declared_stops_the_stage(tmp_path, monkeypatch):
    """The trap of every loader that puts a new adapter in the place of the earlier one: training would silently begin at the base."""
    from stages.adapters import start

    chain = Chain(tmp_path)
    chain.run("chat", "sft", adapter={**LORA, "hand_over": "stack"})
    monkeypatch.setattr(start, "with_adapters", lambda model, folders, task: model)
    with pytest.raises(StageError, match="does not begin as"):
        chain.run("judge", "reward", model="chat", adapter={**LORA, "hand_over": "stack"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [{"kind": "prefix"}, {"kind": "prefix", "projection": True}, {"kind": "p-tuning"}, {"kind": "prompt", "text": "say yes"}]
)
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_virtual_tokens_that_go_on_begin_where_they_ended_to_the_last_bit(kind, stage, tmp_path):
    """Their network too, which peft's own files leave out."""
    chain, own = Chain(tmp_path), {**kind, "tokens": 3, "hand_over": "continue"}
    chain.run("one", "sft", adapter=own)
    result = chain.run("two", stage, model="one", adapter=own)
    assert result.metrics["start_distance"] <= 1e-6
    assert chain.says("two").adapters.names == ["one_adapter"]
    if stage == "ppo":
        first = next(line for line in read(tmp_path / "two-0/metrics.jsonl") if "held_out_kl" in line)
        assert first["held_out_kl"] == 0.0


def test_a_merge_that_changes_outputs_fails_and_leaves_no_artifact(tmp_path, monkeypatch):
    from stages.adapters import building

    real = building.merged

    def wrong(model):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(1.5)
        return real(model)

    monkeypatch.setattr(building, "merged", wrong)
    chain = Chain(tmp_path)
    with pytest.raises(StageError, match="merging the adapter changed the model's outputs"):
        chain.run("chat", "sft", adapter=LORA)
    assert not chain.artifact("chat").exists()
    assert list((tmp_path / "chat-0/checkpoints").glob("step-*"))


def test_a_reward_model_on_an_adapter_keeps_its_head_and_its_task(tmp_path):
    chain = Chain(tmp_path)
    chain.run("judge", "reward", adapter={**LORA, "hand_over": "stack"})
    config = json.loads((chain.artifact("judge") / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    from safetensors.torch import load_file

    head = [tensor for name, tensor in load_file(chain.artifact("judge") / "adapter_model.safetensors").items() if "score" in name]
    assert len(head) == 1
    assert head[0].any()


def test_virtual_tokens_take_places_of_the_context(llama):
    from stages.adapters.building import add_adapter
    from stages.adapters.config import Prompt
    from stages.core.models import context_of

    model = add_adapter(llama(), Prompt(tokens=5), "CAUSAL_LM")
    assert prompt_length(model) == 5
    assert context_of(model) == context_of(llama()) - 5
    assert math.isclose(parity.distance(parity.probe(model), model), 0.0)


def test_a_judge_that_keeps_layers_or_was_trained_on_four_bits_is_a_model_of_its_own(tmp_path):
    from stages.adapters.config import Lora, QLora
    from stages.adapters.judge import _alike
    from stages.contract import Adapters

    def held(**settings):
        return Adapters(names=["judge"], settings=[{"rank": 4, **settings}], base_digest="0")

    assert _alike(Lora(), held())
    assert not _alike(Lora(), held(modules_to_save=["embed_tokens"]))
    assert not _alike(Lora(), held(kind="qlora"))
    assert not _alike(QLora(), held())
    assert _alike(QLora(), held(kind="qlora"))
    assert not _alike(QLora(double=False), held(kind="qlora"))


def test_an_engine_with_weights_of_its_own_begins_with_the_base_of_adapters_that_lie_apart(tmp_path, monkeypatch):
    """A folder of adapters is no model that it could read; they come with the first weights that are handed over."""
    from stages.ppo import run as stage

    class ReadError(Exception):
        pass

    def engine(folder, *_, **__):
        raise ReadError(folder.resolve())

    monkeypatch.setattr(stage, "VLLM", engine)
    monkeypatch.setattr(stage, "check_vllm", lambda: None)
    chain, own = Chain(tmp_path), {**LORA, "hand_over": "continue"}
    chain.run("chat", "sft", adapter=own)
    with pytest.raises(ReadError) as read:
        chain.run("policy", "ppo", model="chat", adapter=own, engine="vllm")
    assert read.value.args == (chain.base.resolve(),)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stack", "continue"])
def test_a_judge_on_the_policys_base_scores_as_alone_and_holds_no_second_copy(policy, tmp_path, monkeypatch):
    from stages.core.rewards import Rewards
    from stages.ppo import run as stage

    seen = {}
    real = stage.build_rewards
    monkeypatch.setattr(stage, "build_rewards", lambda *args, **more: seen.setdefault("rewards", real(*args, **more)))
    chain, own = Chain(tmp_path), {**LORA, "hand_over": policy}
    chain.run("chat", "sft", adapter=own)
    chain.run("judge", "reward", model="chat", adapter=own)
    chain.run("policy", "ppo", model="chat", judge="judge", adapter=own, players="shared-base")
    rewards: Rewards = seen["rewards"]
    judge = rewards.parts[0][2].model
    rows = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    alone = last_token_scores(load_reward_model(chain.artifact("judge"), CPU), rows)
    torch.testing.assert_close(last_token_scores(judge, rows), alone, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in judge.parameters()) == 32
    torch.testing.assert_close(said(load_causal_lm(chain.artifact("policy"), CPU)), said(stranger(chain, "policy")), rtol=0, atol=1e-5)
