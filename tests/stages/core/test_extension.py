import pytest
import torch

from data.errors import DataError
from stages.core.extension import extend


def again(tokenizer, folder):
    """A copy with a backend of its own, which `copy.deepcopy` would share."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def longer(tokenizer, folder, *tokens):
    more = again(tokenizer, folder)
    more.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    return more


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_and_known_ones_stay_as_they_were(llama, tokenizer, tmp_path, tied):
    model, more = llama(tied_embeddings=tied), longer(tokenizer, tmp_path, "<|call|>", "<|think|>")
    ids = torch.tensor([[5, 40, 7, 300]])
    before, table = model(ids).logits, model.get_input_embeddings().weight.detach().clone()
    (note,) = extend(model, tokenizer, more, tmp_path)
    assert note == "2 new tokens (<|call|>, <|think|>) begin as the mean of the known embeddings"
    assert model.config.vocab_size == len(more)
    torch.testing.assert_close(model(ids).logits[..., : len(tokenizer)], before)
    places = more.convert_tokens_to_ids(["<|call|>", "<|think|>"])
    torch.testing.assert_close(model.get_input_embeddings().weight[places], table.mean(0).expand(2, -1))


def test_rows_that_a_model_keeps_in_reserve_are_used_without_resizing(llama, tokenizer, tmp_path):
    model = llama()
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    more = longer(tokenizer, tmp_path, "<|call|>")
    extend(model, tokenizer, more, tmp_path)
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == len(tokenizer) + 8
    torch.testing.assert_close(weight[len(tokenizer)], weight[: len(tokenizer)].mean(0))


def test_the_models_own_tokenizer_changes_nothing(llama, tokenizer, tmp_path):
    model = llama()
    assert extend(model, tokenizer, again(tokenizer, tmp_path), tmp_path) == []
    assert model.config.vocab_size == len(tokenizer)


def test_a_tokenizer_that_reads_known_text_otherwise_is_refused(llama, tokenizer, tmp_path):
    from data.templates import TEMPLATES
    from stages.tokenizer.run import trained

    with pytest.raises(DataError, match=r"the model knows token .* as id .*, the stage's tokenizer as"):
        extend(llama(), tokenizer, trained(["zyx wvu tsr"] * 50, 320, TEMPLATES["turns"]), tmp_path)


def test_a_base_model_without_template_or_pad_token_is_taken_through_sft(llama, tokenizer, make_job, run_stage, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bare = again(tokenizer, tmp_path / "copy")
    bare.chat_template, bare.pad_token = None, bare.eos_token
    llama().save_pretrained(tmp_path / "bare")
    bare.save_pretrained(tmp_path / "bare")
    taken = make_job(
        "tokenizer", {"existing": "./bare", "template": "chatml"}, name="words", inputs={"existing": ("causal-lm", tmp_path / "bare")}
    )
    assert any("a chat template was added" in note for note in run_stage(taken).notes)
    chats = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": f"sat on {n}"}]} for n in range(20)]
    config = {"model": "./bare", "tokenizer": "words", "data": [{"path": "x"}], "batch_tokens": 128}
    inputs = {"model": ("causal-lm", tmp_path / "bare"), "tokenizer": ("tokenizer", taken.artifact)}
    job = make_job("sft", config, name="chat", inputs=inputs, rows={"data.0": chats})
    result = run_stage(job)
    assert any("new tokens" in note for note in result.notes)
    tokenizer, model = AutoTokenizer.from_pretrained(job.artifact), AutoModelForCausalLM.from_pretrained(job.artifact)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.pad_token != tokenizer.eos_token
    assert "<|im_start|>" in tokenizer.apply_chat_template(chats[0]["messages"], tokenize=False)
