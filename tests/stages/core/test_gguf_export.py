"""GGUF weights are the model: read back by transformers, compared by value, and refused where we do not write them exactly."""

import json
import shutil

import pytest
import torch

from data.errors import DataError
from data.templates import TEMPLATES
from stages.contract import StageError
from stages.core import gguf_export
from stages.core.config import Llama
from stages.core.models import new_llama

CHAT = [{"role": role, "content": f"{role} says {n}"} for n, role in enumerate(["system", "user", "assistant", "user"])]


@pytest.fixture
def folder(tokenizer, tmp_path):
    shape = Llama(hidden_size=32, layers=2, heads=4, kv_heads=2, context=64, rope_theta=5000.0, tied_embeddings=False)
    model = new_llama(shape, tokenizer, 0)
    model.resize_token_embeddings(len(tokenizer) + 3)  # rows without a token, as large models have
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_written_reads_back_as_the_same_model_and_vocabulary(folder, tokenizer):
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = gguf_export.write(folder, "tiny")
    assert told[0].startswith("model.gguf: F32; read back")
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf")
    ids = torch.randint(len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-6)
    text = "the cat<|end|>sat on 12 mats.\nÄpfel"
    read = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    assert read(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    fields = {name: field.contents() for name, field in gguf.GGUFReader(folder / "model.gguf").fields.items()}
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.freq_base"] == 5000.0
    assert fields["tokenizer.ggml.eot_token_id"] == tokenizer.convert_tokens_to_ids("<|end|>")
    assert fields["tokenizer.ggml.add_bos_token"] is False
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[tokenizer.pad_token_id] == gguf.TokenType.CONTROL
    assert kinds[-3:] == [gguf.TokenType.UNUSED] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smaller_numbers_stay_smaller_and_norms_exact(folder, dtype):
    import gguf
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).to(dtype).save_pretrained(folder)
    gguf_export.write(folder, "tiny")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(folder / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_rows_in_another_order_are_found_out(folder, monkeypatch):
    monkeypatch.setattr(gguf_export, "paired", lambda weight, heads: weight)
    with pytest.raises(StageError, match="reads back as another model"):
        gguf_export.write(folder, "tiny")


def test_what_is_not_written_exactly_is_refused_with_what_may_do_it(folder):
    from transformers import LlamaConfig, Qwen2Config

    for config, says in (
        (Qwen2Config(), "holds a qwen2 model; only plain LLaMA-style models .* name it with --converter"),
        (LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}), "only plain LLaMA-style"),
        (LlamaConfig(architectures=["LlamaForSequenceClassification"]), "holds a reward model"),
    ):
        with pytest.raises(DataError, match=says):
            gguf_export.check(config, folder)


def test_a_tokenizer_that_splits_otherwise_is_refused(folder):
    from transformers import AutoConfig

    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, settings["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"no plain byte-level BPE; .* --converter"):
        gguf_export.check(AutoConfig.from_pretrained(folder), folder)


def test_llamacpps_own_converter_is_used_where_it_is_named(folder, tmp_path):
    converter = tmp_path / "convert.py"
    converter.write_text("import sys\nopen(sys.argv[3], 'w').write(' '.join(sys.argv[1:3]))\n")
    assert gguf_export.write(folder, "tiny", converter)[0] == f"model.gguf: written by {converter}"
    assert (folder / "model.gguf").read_text() == f"{folder} --outfile"
    converter.write_text("raise NotImplementedError('not recognized')\n")
    with pytest.raises(StageError, match="failed: NotImplementedError: not recognized"):
        gguf_export.write(folder, "tiny", converter)


def filled(page: str, messages: list[dict[str, str]]) -> str:
    """What Ollama writes by a Modelfile's template, as far as ours go: one range over messages, one choice by role."""
    body = page.partition('TEMPLATE """')[2].rpartition('"""')[0]
    begin, _, rest = body.partition("{{ range .Messages }}")
    cases, _, prompt = rest.rpartition("{{ end }}")
    turns = dict(part.split('" }}', 1) for part in cases.removesuffix("{{ end }}").split('.Role "')[1:])
    turns = {role: text.partition("{{ else")[0] for role, text in turns.items()}
    return begin + "".join(turns[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + prompt


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_modelfile_writes_a_chat_as_the_template_does(name):
    from tests.stages.tiny import tokenizer_of

    tokenizer = tokenizer_of(["a"], name)
    page, lacks = gguf_export.modelfile(tokenizer)
    assert lacks == []
    assert filled(page, CHAT) == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert f'PARAMETER stop "{tokenizer.eos_token}"' in page


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}<|eos|>{% endfor %}{% if add_generation_prompt %}assistant{% endif %}",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.role }}{{ m.content }}<|eos|>{% endfor %}",
        "{% for m in messages %}{{ '{{' }}{{ m.role }}{{ m.content }}<|eos|>{% endfor %}{% if add_generation_prompt %}{{ '{{' }}assistant{% endif %}",
    ],
)
def test_a_template_without_a_simple_form_is_left_out_and_told(tokenizer, template, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.chat_template = template
    assert gguf_export.go_template(other) is None
    shutil.rmtree(tmp_path)
