"""Documents to token ids, fast: the tokenizer's Rust side in batches, numpy out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.fast import Encode, fast_encode
from data.packing import cut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 1_000


def encode_texts(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Ids of each text, (T,) int32: a start token, from which its first word is predicted, the words, and EOS.

    The start token is BOS where the tokenizer writes one by itself, else EOS. Raises DataError if the tokenizer has no EOS or is not a fast one.
    """
    encode = encoder(tokenizer)
    return [ids for begin in range(0, len(texts), BATCH) for ids in encode(texts[begin : begin + BATCH])]


def encoder(tokenizer: "PreTrainedTokenizerFast") -> Callable[[Sequence[str]], Iterator[NDArray[np.int32]]]:
    """What `encode_texts` does with each batch, made ready once."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if eos is None:
        raise DataError("the tokenizer has no EOS token; documents could not be told apart")
    backend = fast_backend(tokenizer)
    fast = fast_encode(backend)
    end = np.array([eos], np.int32)

    def encode(batch: Sequence[str]) -> Iterator[NDArray[np.int32]]:
        for ids in _encoded(backend, fast, batch):
            # A tokenizer may add its own; a second EOS would teach the model to start with it.
            ended = len(ids) > 0 and ids[-1] == eos
            first = ids[0] if len(ids) else eos
            begun = first == bos or (first == eos and len(ids) + (not ended) > 1)
            yield ids if begun and ended else np.concatenate([end[: not begun], ids, end[: not ended]])

    return encode


def _encoded(backend: Any, fast: Encode | None, batch: Sequence[str]) -> Iterator[NDArray[np.int32]]:
    """Ids of each text, by the fast way where there is one and it can tell them."""
    if fast is None:
        yield from (np.array(encoding.ids, np.int32) for encoding in backend.encode_batch_fast(list(batch), add_special_tokens=True))
        return
    for text in batch:
        ids = fast(text)
        yield np.array(backend.encode(text, add_special_tokens=True).ids, np.int32) if ids is None else ids


def fast_backend(tokenizer: Any) -> Any:
    """The tokenizer's Rust side, with no truncation or padding left over. Raises DataError if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"{type(tokenizer).__name__} is a slow tokenizer; wanted one with a tokenizer.json")
    # Both are state of the tokenizer that an earlier call may have left behind.
    backend.no_truncation()
    backend.no_padding()
    return backend


def pieces(documents: Iterable[NDArray[np.int32]], capacity: int) -> list[NDArray[np.int32]]:
    """Documents no longer than `capacity`; a longer one is cut into pieces that share one token with the next (`data.packing.cut`)."""
    return [document[begin:end] for document in documents for begin, end in cut(len(document), capacity)]
