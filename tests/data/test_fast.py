"""The fast way to ids gives the ids of the tokenizer itself, or none."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from data.fast import GPT2, PATTERNS, _letters, fast_encode
from data.tokens import encode_texts
from tests.data.chats import SHAPES, tokenizer


def pairs(pattern: str) -> Tokenizer:
    """A tokenizer whose merges are all pairs of bytes: where a text is cut shows in its ids."""
    letters = {byte: letter for letter, byte in _letters().items()}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    merges = [(letters[first], letters[second]) for first in range(256) for second in range(256)]
    vocabulary |= {first + second: 256 + place for place, (first, second) in enumerate(merges)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    whole = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if pattern == GPT2 else whole
    return made


@pytest.mark.slow
@pytest.mark.parametrize("pattern", list(PATTERNS), ids=["gpt2", "llama3", "qwen"])
def test_every_kind_of_character_is_cut_alike(pattern: str) -> None:
    """All of Unicode was compared once (each pattern 50 s, no difference); here the planes in use whole, of the others one in 61."""
    made = pairs(pattern)
    fast = fast_encode(made)
    assert fast is not None
    points = [*range(0x3100), *range(0x3100, 0xD800, 61), *range(0xE000, 0x110000, 61)]
    texts = [f"a{c}b {c}{c} 1{c}2\n{c} .{c}" for c in map(chr, points)]
    encoded = made.encode_batch_fast(texts, add_special_tokens=False)
    assert [text for text, own in zip(texts, encoded, strict=True) if own.ids != fast(text).tolist()] == []  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SHAPES)
@given(text=st.text(max_size=60) | st.text(alphabet="aeHhlo 'st\n\t1.,é你👋<|end|>", max_size=60))
@settings(max_examples=60, deadline=None)
def test_documents_are_encoded_as_by_the_tokenizer_itself(name: str, text: str) -> None:
    backend = tokenizer(name).backend_tokenizer
    own = backend.encode(text).ids
    bos, eos = tokenizer(name).bos_token_id, tokenizer(name).eos_token_id
    ended = own if own and own[-1] == eos else [*own, eos]
    begun = ended[0] == bos or (ended[0] == eos and len(ended) > 1)
    assert encode_texts(tokenizer(name), [text])[0].tolist() == (ended if begun else [eos, *ended])


def test_our_own_tokenizers_go_the_fast_way() -> None:
    fast = fast_encode(tokenizer("turns").backend_tokenizer)
    assert fast is not None
    assert fast("Hello there, the model answers.") is not None
    assert fast("a special <|end|> inside") is None, "left to the tokenizer"


def changed(edit: Any) -> Tokenizer:
    plain = json.loads(tokenizer("turns").backend_tokenizer.to_str())
    edit(plain)
    return Tokenizer.from_str(json.dumps(plain))


def swap_merges(plain: dict[str, Any]) -> None:
    merges = plain["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def by_two_merges(plain: dict[str, Any]) -> None:
    model = plain["model"]
    made = [first + second for first, second in model["merges"]]
    word = next(word for word in made if len(word) > 2 and word[1:] in model["vocab"] and [word[0], word[1:]] not in model["merges"])
    model["merges"].append([word[0], word[1:]])


@pytest.mark.parametrize(
    "edit",
    [
        swap_merges,
        by_two_merges,
        lambda plain: plain.update(normalizer={"type": "NFC"}),
        lambda plain: plain["pre_tokenizer"].update(add_prefix_space=True),
        lambda plain: plain["model"].update(dropout=0.1),
        lambda plain: plain.update(pre_tokenizer={"type": "Whitespace"}),
    ],
)
def test_a_tokenizer_for_which_nothing_is_proved_goes_its_own_way(edit: Any) -> None:
    assert fast_encode(changed(edit)) is None


def test_a_token_that_is_not_merged_into_itself_is_found() -> None:
    letters = {byte: letter for letter, byte in _letters().items()}
    vocabulary = {letters[byte]: byte for byte in range(256)} | {"bc": 256, "ab": 257, "abc": 258}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c"), ("a", "b"), ("ab", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert made.encode("abc").ids == [97, 256], "bc first, and then a and bc have no merge"
    assert fast_encode(made) is None, "tiktoken would join a and bc to abc"


def test_what_a_tokenizer_puts_around_every_text_is_put_around_it() -> None:
    made = Tokenizer.from_str(tokenizer("turns").backend_tokenizer.to_str())
    made.add_tokens([AddedToken("<s>", special=True)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", made.token_to_id("<s>"))])
    fast = fast_encode(made)
    assert fast is not None
    for text in ("", "a", "Hello there"):
        assert fast(text).tolist() == made.encode(text).ids  # type: ignore[union-attr]


def test_random_bytes_of_text_are_encoded_alike() -> None:
    source = random.Random(0)
    assert fast_encode(tokenizer("llama3").backend_tokenizer) is None, "its pattern is a test's own and not a published one"
    made = pairs(list(PATTERNS)[1])
    fast = fast_encode(made)
    assert fast is not None
    for _ in range(200):
        text = "".join(source.choice("ab'sTRe 12345\r\n\t.,!?éß中🎉 ") for _ in range(80))
        assert fast(text).tolist() == made.encode(text).ids  # type: ignore[union-attr]
