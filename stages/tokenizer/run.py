"""Tokenizer: text to a vocabulary with a chat template, or an existing tokenizer made fit for chats."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.chat import check_template
from data.formats import Text
from data.records import split
from data.templates import EOS, PAD, TEMPLATES, ChatTemplate
from stages.contract import Artifact, Hardware, Job, Result
from stages.core.artifacts import tokenizer_digests
from stages.core.models import load_tokenizer
from stages.core.publishing import publish
from stages.core.reading import read
from stages.tokenizer.config import Tokenizer as Config

LONGEST = 1 << 20
"""model_max_length of a tokenizer that belongs to no model yet; a model's stage sets its own."""


def run(job: Job, config: Config, hardware: Hardware) -> Result:
    """Train on the text, or take over; measure bytes per token on text not trained on."""
    records, notes = read(job, "data", config.data, Text) if config.data else ([], [])
    train, held_out = split(records, config.held_out) if records else ([], [])
    template = TEMPLATES[config.template]
    if config.existing is not None:
        tokenizer, added = take_over(job.inputs["existing"].path, template)
        notes = [*notes, *added]
    else:
        tokenizer = trained((record.text for record in train), config.vocab_size, template)
    check_template(tokenizer)
    if config.existing is None and len(tokenizer) < config.vocab_size:
        notes.append(f"the text gives only {len(tokenizer):,} tokens of the {config.vocab_size:,} asked for")
    metrics = {"vocab_size": float(len(tokenizer))}
    if held_out:
        metrics["bytes_per_token"] = bytes_per_token(tokenizer, [record.text for record in held_out])
    publish(job.artifact, lambda partial: _written(partial, tokenizer))
    return Result(metrics=metrics, notes=notes)


def trained(texts: Iterable[str], vocab_size: int, template: ChatTemplate) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text can be written and comes back exactly. No BOS; EOS ends documents; pad is neither."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, *template.tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=list(template.tokens),
        chat_template=template.template,
        model_max_length=LONGEST,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def take_over(path: Path, template: ChatTemplate) -> tuple[Any, list[str]]:
    """An existing tokenizer, with a pad token of its own and a chat template added where they are missing, and what was added."""
    tokenizer = load_tokenizer(path)
    notes = []
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        notes.append(f"a pad token {PAD} was added: it had none of its own, and the end of a text must be learned")
    if not tokenizer.chat_template:
        known = tokenizer.get_vocab()
        new = [token for token in template.tokens if token not in known]
        tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
        tokenizer.chat_template = template.template
        notes.append(f"a chat template was added with {len(new)} new special tokens")
    return tokenizer, notes


def bytes_per_token(tokenizer: Any, texts: Sequence[str]) -> float:
    """UTF-8 bytes that a token stands for on average; special tokens are not added."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return sum(len(text.encode()) for text in texts) / max(1, sum(map(len, encoded)))


def _written(partial: Path, tokenizer: Any) -> Artifact:
    tokenizer.save_pretrained(partial)
    return Artifact(kind="tokenizer", **tokenizer_digests(partial, tokenizer), vocab_size=len(tokenizer))
