"""Tokenizer: text to a vocabulary with a chat template, or an existing tokenizer made fit for chats."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.chat import check_template
from data.formats import Text
from data.mixture import check_weight, taken
from data.reading import Stream
from data.records import content_key, place_of, sides
from data.templates import EOS, PAD, TEMPLATES, ChatTemplate
from stages.contract import Artifact, Hardware, Job, Result
from stages.core.artifacts import tokenizer_digests
from stages.core.models import load_tokenizer
from stages.core.publishing import publish
from stages.core.reading import files_of
from stages.tokenizer.config import Tokenizer as Config

LONGEST = 1 << 20
"""model_max_length of a tokenizer that belongs to no model yet; a model's stage sets its own."""


def run(job: Job, config: Config, hardware: Hardware) -> Result:
    """Train on the text, or take over; measure bytes per token on text not trained on."""
    texts = Texts(job, config)
    notes = list(texts.notes)
    template = TEMPLATES[config.template]
    if config.existing is not None:
        tokenizer, added = take_over(job.inputs["existing"].path, template)
        notes = [*notes, *added]
    else:
        tokenizer = trained(texts.training(), config.vocab_size, template)
    check_template(tokenizer)
    if config.existing is None and len(tokenizer) < config.vocab_size:
        notes.append(f"the text gives only {len(tokenizer):,} tokens of the {config.vocab_size:,} asked for")
    metrics = {"vocab_size": float(len(tokenizer))}
    if held_out := texts.held_out():
        metrics["bytes_per_token"] = bytes_per_token(tokenizer, held_out)
    publish(job.artifact, lambda partial: _written(partial, tokenizer))
    return Result(metrics=metrics, notes=notes)


class Texts:
    """The texts of a stage, read anew each time that they are needed, so that they may be more than memory holds."""

    HELD = 20_000
    """Held-out texts that are measured at most."""

    def __init__(self, job: Job, config: Config) -> None:
        """Read once to see which texts are held out, and how often each one comes. Raises DataError."""
        self._job, self._config = job, config
        stream = self._stream()
        places = np.fromiter((place_of(content_key(record)) for _, record in stream), np.float64)
        self.notes, self._times, begin = stream.notes, np.zeros(len(places), np.int64), 0
        for source, count in zip(config.data, stream.counts, strict=True):
            check_weight(source.path, count, source.weight)
            self._times[begin : begin + count] = np.bincount(np.array(taken(count, source.weight), np.int64), minlength=count)
            begin += count
        self._held = np.zeros(len(places), np.bool_)
        if len(places):
            self._held[self._times > 0] = sides(places[self._times > 0].tolist(), config.held_out)

    def training(self) -> Iterator[str]:
        for number, (_, record) in enumerate(self._stream()):
            if not self._held[number]:
                yield from repeat(record.text, int(self._times[number]))

    def held_out(self) -> list[str]:
        if not self._held.any():
            return []
        found = (record.text for number, (_, record) in enumerate(self._stream()) if self._held[number])
        return list(islice(found, self.HELD))

    def _stream(self) -> Stream[Text]:
        return Stream(self._config.data, files_of(self._job, "data", self._config.data), Text)


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
