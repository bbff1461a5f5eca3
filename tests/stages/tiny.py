"""Small real things for tests of stages: a tokenizer with a chat template, and a causal model of its size, saved as artifacts are."""

from pathlib import Path

import torch

from data.templates import EOS, PAD, TEMPLATES
from stages.contract import Hardware, Job

CPU = Hardware(gpus=0, threads=1)


def tokenizer_of(words, template="turns"):
    """Splits at spaces, one id a word; unknown words become bytes' stand-in `<|unk|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chat = TEMPLATES[template]
    special = [PAD, EOS, "<|unk|>", *chat.tokens]
    vocabulary = {
        word: place for place, word in enumerate([*special, *dict.fromkeys(piece for word in words for piece in (word, "Ġ" + word)), "Ċ"])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, unk_token="<|unk|>", additional_special_tokens=list(chat.tokens)
    )
    tokenizer.chat_template = chat.template
    return tokenizer


def causal_lm(tokenizer, *, seed=0, width=32, layers=2, context=96):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=width**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


def saved(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job_of(folder: Path, kind: str, config: dict, *, inputs: dict[str, tuple[str, Path]], files: dict[str, list[Path]], seed=0) -> Job:
    """A job as the orchestrator would write it; `inputs` holds kind and folder by field."""
    folder.mkdir(parents=True, exist_ok=True)
    resolved = {
        field: {"reference": path.name, "kind": kind, "path": str(path), "fingerprint": "0"} for field, (kind, path) in inputs.items()
    }
    given = {field: [str(path) for path in paths] for field, paths in files.items()}
    whole = {"stage": kind, "kind": kind, "folder": str(folder), "seed": seed, "config": {"kind": kind, **config}}
    job = Job.model_validate({**whole, "inputs": resolved, "files": given, "hardware": CPU.model_dump()})
    (folder / "job.json").write_text(job.model_dump_json())
    return job
