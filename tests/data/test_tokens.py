"""Documents to ids."""

import numpy as np
import pytest
from tokenizers import processors

from data.errors import DataError
from data.tokens import encode_texts, pieces
from tests.data.chats import tokenizer


def test_a_document_is_its_tokens_between_a_start_and_one_eos() -> None:
    fast = tokenizer("turns")
    texts = ["Hello there", "", "naïve 👋🏽\n"]
    encoded = encode_texts(fast, texts)
    assert [ids.tolist() for ids in encoded] == [
        [fast.eos_token_id, *fast(text, add_special_tokens=False)["input_ids"], fast.eos_token_id] for text in texts
    ]
    assert all(ids.dtype == np.int32 for ids in encoded)


def test_a_tokenizer_that_adds_bos_and_eos_itself_gives_each_once() -> None:
    fast = tokenizer.__wrapped__("llama2")
    bos, eos = (("<s>", fast.bos_token_id), ("</s>", fast.eos_token_id))
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[bos, eos])
    ids = encode_texts(fast, ["Hello"])[0].tolist()
    assert (ids[0], ids[-1]) == (bos[1], eos[1])
    assert (ids.count(bos[1]), ids.count(eos[1])) == (1, 1)


def test_truncation_and_padding_left_over_from_another_call_do_not_matter() -> None:
    fast = tokenizer.__wrapped__("turns")
    fast.backend_tokenizer.enable_truncation(2)
    fast.backend_tokenizer.enable_padding(length=5)
    assert (
        encode_texts(fast, ["Hello there, how can I help?"])[0].tolist()
        == encode_texts(tokenizer("turns"), ["Hello there, how can I help?"])[0].tolist()
    )


def test_long_documents_are_cut_into_pieces_that_share_one_token() -> None:
    cut = pieces([np.arange(10, dtype=np.int32), np.arange(3, dtype=np.int32)], 4)
    assert [piece.tolist() for piece in cut] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [0, 1, 2]]


def test_a_tokenizer_without_eos_or_without_a_fast_side_is_refused() -> None:
    fast = tokenizer.__wrapped__("turns")
    fast.eos_token = None
    with pytest.raises(DataError, match="no EOS token"):
        encode_texts(fast, ["a"])

    class Slow:
        bos_token_id, eos_token_id = None, 0

    with pytest.raises(DataError, match="Slow is a slow tokenizer"):
        encode_texts(Slow(), ["a"])  # type: ignore[arg-type]
