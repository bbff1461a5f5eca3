import json

import pytest

from data.templates import TEMPLATES
from stages.tokenizer.config import Tokenizer
from stages.tokenizer.run import bytes_per_token, trained

ODD = ["Grüße, 世界! 🙂", "  two  spaces\tand\na line", "a" * 300, "\x00\x7f", "<|user|> is only text where nobody means it"]


def rows(texts):
    return [{"text": text} for text in texts]


@pytest.fixture
def sentences():
    return [f"number {index} follows number {index - 1}, and so on" for index in range(200)]


def test_any_text_comes_back_exactly(tokenizer):
    for text in ODD[:-1]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.all_special_ids)


def test_training_again_gives_the_same_tokenizer(sentences):
    one, two = (trained(sentences, 350, TEMPLATES["turns"]).backend_tokenizer.to_str() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("template", ["turns", "chatml"])
def test_a_trained_tokenizer_loads_without_us_and_speaks_its_template(make_job, run_stage, sentences, template):
    from transformers import AutoTokenizer

    chats = [{"messages": [{"role": "user", "content": "how many"}, {"role": "assistant", "content": "seven"}]}] * 2
    config = {"vocab_size": 400, "template": template, "data": [{"path": "a"}, {"path": "b"}], "held_out": 0.1}
    job = make_job("tokenizer", config, rows={"data.0": rows(sentences), "data.1": chats})
    result = run_stage(job)
    tokenizer = AutoTokenizer.from_pretrained(job.artifact)
    assert len(tokenizer) <= 400
    assert result.metrics["bytes_per_token"] > 1.5
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.bos_token is None
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length < 10**7
    rendered = tokenizer.apply_chat_template(chats[0]["messages"], return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, learn in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if learn]
    assert tokenizer.decode(learned) == "seven" + TEMPLATES[template].end
    assert json.loads((job.artifact / "artifact.json").read_text())["template_digest"]


def test_too_little_text_is_noted(make_job, run_stage, sentences):
    job = make_job("tokenizer", {"vocab_size": 5000, "data": [{"path": "a"}]}, rows={"data.0": rows(sentences)})
    assert any("of the 5,000 asked for" in note for note in run_stage(job).notes)


def test_without_text_and_without_an_existing_one_it_says_so():
    with pytest.raises(ValueError, match="needs `data`"):
        Tokenizer()


def test_an_existing_tokenizer_gets_what_it_lacks_and_keeps_its_ids(make_job, run_stage, tokenizer, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    bare.pad_token = bare.eos_token
    bare.save_pretrained(tmp_path / "bare")
    job = make_job("tokenizer", {"existing": "./bare"}, inputs={"existing": ("tokenizer", tmp_path / "bare")})
    result = run_stage(job)
    taken = AutoTokenizer.from_pretrained(job.artifact)
    assert taken.pad_token_id != taken.eos_token_id == bare.eos_token_id
    assert taken.chat_template
    assert taken("the cat sat").input_ids == bare("the cat sat").input_ids
    assert len(result.notes) == 2


def test_bytes_per_token_counts_bytes_not_characters(tokenizer):
    assert bytes_per_token(tokenizer, ["é" * 50]) == pytest.approx(1.0, abs=0.5)


def test_texts_are_streamed_and_split_as_in_memory(make_job):
    from data.config import Source
    from data.formats import Text
    from data.records import read_records, split
    from stages.core.reading import files_of
    from stages.tokenizer.config import Tokenizer
    from stages.tokenizer.run import Texts

    rows = {f"data.{n}": [{"text": f"{name} {number % 40}"} for number in range(60)] for n, name in enumerate(("one", "two"))}
    job = make_job("tokenizer", {}, rows=rows)
    config = Tokenizer(data=(Source(path="a", weight=2.5), Source(path="b")), held_out=0.1)
    texts = Texts(job, config)
    found = read_records(config.data, files_of(job, "data", config.data), Text)
    train, held = split(found.records, 0.1)
    assert sorted(texts.training()) == sorted(record.text for record in train)
    assert set(texts.held_out()) == {record.text for record in held}
    assert texts.notes == found.notes
