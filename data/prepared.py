"""Sources as documents of token ids on disk: source -> records -> tokens, one batch at a time, made once for one content and one tokenizer.

A document of the file is a record of the sources, in their order, so that split and weights are a matter of indices and nothing has to be held.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.cache import made_once
from data.chat import Learn, render_all
from data.code import CODE
from data.config import Source
from data.formats import Chat, Text
from data.mixture import check_weight, taken, tempered
from data.reading import R, Stream
from data.records import content_key, place_of
from data.sources import HUB, digest
from data.tokenfile import DROPPED, SHORTENED, WHOLE, TokenFile, Written, write_tokens
from data.tokens import encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 1
"""Raised when the same sources become other documents."""
BATCH = 1_000


def text_tokens(
    tokenizer: "PreTrainedTokenizerFast", sources: Sequence[Source], files: Sequence[Sequence[Path]], cache: Path, *, places: bool
) -> tuple[TokenFile, list[str]]:
    """Each text with its start token and EOS, and notes. `places` says whether the documents are to be split by their content. Raises DataError."""

    def documents(stream: Stream[Text]) -> Iterator[Written]:
        encode = encoder(tokenizer)
        for batch in _batches(stream):
            for (source, record), ids in zip(batch, encode([record.text for _, record in batch]), strict=True):
                yield Written(
                    ids,
                    source,
                    len(record.text.encode()),
                    place_of(content_key(record)) if places else 0.0,
                    float("nan") if record.nats is None else record.nats,
                )

    key = {"record": "text", "places": places}
    return _tokens(tokenizer, sources, files, cache, key, Text, documents, masked=False)


def chat_tokens(
    tokenizer: "PreTrainedTokenizerFast",
    sources: Sequence[Source],
    files: Sequence[Sequence[Path]],
    cache: Path,
    *,
    learn: Learn,
    max_tokens: int,
) -> tuple[TokenFile, list[str]]:
    """Each chat as ids and mask, shortened to fit or left without tokens, and notes. Raises DataError."""

    def documents(stream: Stream[Chat]) -> Iterator[Written]:
        for number, batch in enumerate(_batches(stream)):
            chats = [record for _, record in batch]
            found = render_all(tokenizer, chats, learn=learn, max_tokens=max_tokens, before=number * BATCH)
            by_place = dict(zip(found.kept, found.tokens, strict=True))
            for index, (source, record) in enumerate(batch):
                tokens, place = by_place.get(index), place_of(content_key(record))
                if tokens is None:
                    yield Written(np.zeros(0, np.int32), source, place=place, learn=np.zeros(0, np.bool_), fit=DROPPED)
                    continue
                fit = SHORTENED if index in found.shorter else WHOLE
                yield Written(np.array(tokens.ids, np.int32), source, place=place, learn=np.array(tokens.learn, np.bool_), fit=fit)

    key = {"record": "chat", "learn": learn, "max_tokens": max_tokens, "template": tokenizer.chat_template}
    return _tokens(tokenizer, sources, files, cache, key, Chat, documents, masked=True)


def picked(tokens: TokenFile, sources: Sequence[Source], temperature: float) -> NDArray[np.int64]:
    """Documents of an epoch in source order, weights and temperature applied. Raises DataError for a weight that takes none."""
    counts = np.bincount(tokens.documents["source"], minlength=len(sources)).tolist()
    weights = tempered(counts, [source.weight for source in sources], temperature)
    found, begin = [], 0
    for source, count, weight in zip(sources, counts, weights, strict=True):
        check_weight(source.path, count, weight)
        found.append(begin + np.array(taken(count, weight), np.int64))
        begin += count
    return np.concatenate(found)


def records_at(sources: Sequence[Source], files: Sequence[Sequence[Path]], want: type[R], indices: Iterable[int]) -> list[R]:
    """The records with these numbers, read anew: what is held out is looked at as words too. Repeated numbers give repeated records."""
    wanted = list(indices)
    kept = set(wanted)
    found = {number: record for number, (_, record) in enumerate(Stream(sources, files, want)) if number in kept}
    return [found[number] for number in wanted]


def _batches(stream: Iterable[tuple[int, R]]) -> Iterator[list[tuple[int, R]]]:
    remaining = iter(stream)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _tokens(
    tokenizer: Any,
    sources: Sequence[Source],
    files: Sequence[Sequence[Path]],
    cache: Path,
    key: dict[str, Any],
    want: type[R],
    documents: Callable[[Stream[R]], Iterator[Written]],
    *,
    masked: bool,
) -> tuple[TokenFile, list[str]]:
    stream: Stream[R] = Stream(sources, files, want)

    def make(folder: Path) -> dict[str, Any]:
        about = write_tokens(folder, documents(stream), vocabulary=len(tokenizer), masked=masked)
        return {**about, "notes": stream.notes}

    whole = {
        "version": VERSION,
        **key,
        "sources": [_identity(*pair) for pair in zip(sources, files, strict=True)],
        "tokenizer": _spoken(tokenizer),
    }
    folder, known = made_once(cache, whole, make)
    tokens = TokenFile(folder)
    if known:
        print(
            f"{tokens.about['tokens']:,} tokens of {len(tokens):,} records were there already ({folder.parent.name}/{folder.name})",
            flush=True,
        )
    return tokens, list(tokens.about["notes"])


def _identity(source: Source, files: Sequence[Path]) -> dict[str, Any]:
    """What of a source decides its records: contents, never names. Weights do not: they are applied to indices."""
    settings = source.model_dump(mode="json", exclude={"path", "stage", "weight"})
    if code := CODE.match(source.format):
        settings["format"] = [digest([Path(code[1])]), code[2]]
    return {**settings, "content": source.path if source.path.startswith(HUB) else digest(files)}


def _spoken(tokenizer: Any) -> str:
    """Digest of all that decides ids: the tokenizer's own file, and the tokens that its wrapper knows as BOS and EOS."""
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)]
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"truncation": None, "padding": None}  # left over from other calls
    return hashlib.sha256(json.dumps([backend, ends], sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
