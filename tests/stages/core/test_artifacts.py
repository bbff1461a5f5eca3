import json

import pytest
import torch

from stages.contract import Artifact, Hardware, StageError
from stages.core import parity
from stages.core.artifacts import save_artifact
from stages.core.models import load_causal_lm, load_reward_model, load_tokenizer
from stages.core.publishing import publish

CPU = Hardware(gpus=0)


def test_an_artifact_loads_without_us_and_gives_the_same_logits(llama, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = llama().eval()
    artifact = save_artifact(model, tokenizer, tmp_path / "artifact", kind="causal-lm")
    stranger = AutoModelForCausalLM.from_pretrained(tmp_path / "artifact")
    words = AutoTokenizer.from_pretrained(tmp_path / "artifact")
    ids = words("the cat sat", return_tensors="pt").input_ids
    torch.testing.assert_close(stranger(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert artifact.reload_difference < 1e-5
    assert words.chat_template == tokenizer.chat_template
    assert stranger.config.use_cache
    assert stranger.config.pad_token_id == tokenizer.pad_token_id != stranger.config.eos_token_id


def test_generation_ends_on_end_of_turn_and_on_eos(llama, tokenizer, tmp_path):
    save_artifact(llama(), tokenizer, tmp_path / "artifact", kind="causal-lm")
    ends = json.loads((tmp_path / "artifact" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")}


def test_an_artifact_says_what_it_is(llama, tokenizer, tmp_path):
    saved = save_artifact(llama(), tokenizer, tmp_path / "a", kind="causal-lm")
    read = Artifact.model_validate_json((tmp_path / "a" / "artifact.json").read_text())
    assert read == saved
    assert read.vocab_size == len(tokenizer)
    assert read.context_length == 64
    assert read.tokenizer_digest == save_artifact(llama(seed=1), tokenizer, tmp_path / "b", kind="causal-lm").tokenizer_digest


def test_a_reward_model_starts_at_zero_and_keeps_its_head_and_statistics(llama, tokenizer, tmp_path):
    save_artifact(llama(), tokenizer, tmp_path / "base", kind="causal-lm")
    model = load_reward_model(tmp_path / "base", CPU)
    ids = torch.randint(10, 300, (2, 7))
    model.config.pad_token_id = tokenizer.pad_token_id
    assert not model(ids).logits.any()
    torch.nn.init.normal_(model.score.weight)
    saved = save_artifact(model, tokenizer, tmp_path / "judge", kind="reward-model", reward_mean=0.5, reward_std=2.0)
    again = load_reward_model(tmp_path / "judge", CPU)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert (saved.reward_mean, saved.reward_std) == (0.5, 2.0)


def test_a_model_that_changed_on_its_way_to_disk_is_refused_and_nothing_appears(llama, tokenizer, tmp_path, monkeypatch):
    model = llama()
    monkeypatch.setitem(parity.TOLERANCES, torch.float32, -1.0)
    with pytest.raises(StageError, match="differs from the trained one"):
        save_artifact(model, tokenizer, tmp_path / "artifact", kind="causal-lm")
    assert not (tmp_path / "artifact").exists()


def test_publishing_replaces_the_earlier_artifact_and_leavings(tmp_path):
    folder = tmp_path / "artifact"
    (tmp_path / "artifact.partial").mkdir()
    for text in ("old", "new"):
        publish(folder, lambda partial, text=text: (partial / text).write_text(text) and Artifact(kind="dataset"))
    assert sorted(path.name for path in folder.iterdir()) == ["artifact.json", "new"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("load", [load_causal_lm, load_reward_model])
def test_a_folder_without_a_model_is_the_users_mistake(tmp_path, load):
    from data.errors import DataError

    with pytest.raises(DataError, match="holds no model"):
        load(tmp_path, CPU)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapter without its base"):
        load(tmp_path, CPU)
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
