"""Documents that repeat others, against slow and obvious ways to find them."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.cleaning.copies import PERMUTATIONS, Bands, Signatures, digest_of, exact_copies, near_copies, signature_of
from data.cleaning.words import EAST_ASIAN, _foreign, plain_hashes, runs
from data.plain import plain_words

WORDS = [f"word{n}" for n in range(2_000)]


def shingles(text: str) -> set[int]:
    return set(runs(plain_hashes(text), 5).tolist())


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def variant(text: str, changes: int, source: random.Random) -> str:
    words = text.split()
    for _ in range(changes):
        words[source.randrange(len(words))] = source.choice(WORDS)
    return " ".join(words)


def test_signatures_agree_as_often_as_the_sets_do() -> None:
    """An unbiased estimate with the binomial's spread: over 300 pairs the mean error is near 0 and the largest within 4.5 standard deviations."""
    source = random.Random(1)
    errors = []
    for _ in range(300):
        one = " ".join(source.choices(WORDS, k=source.randrange(60, 400)))
        other = variant(one, source.randrange(0, 30), source)
        true = jaccard(one, other)
        agree = float((signature_of(plain_hashes(one)) == signature_of(plain_hashes(other))).mean())
        errors.append((agree - true) / max(1e-9, (true * (1 - true) / PERMUTATIONS) ** 0.5) if 0 < true < 1 else agree - true)
    assert abs(np.mean(errors)) < 4 / 300**0.5
    assert 0.8 < np.std(errors) < 1.2
    assert np.abs(errors).max() < 4.5


@given(st.lists(st.integers(0, 6), max_size=30))
def test_exact_copies_are_all_but_the_first(numbers: list[int]) -> None:
    digests = np.array([digest_of(plain_hashes(str(number))) for number in numbers], np.uint64).reshape(len(numbers), 2)
    assert exact_copies(digests).tolist() == [number in numbers[:place] for place, number in enumerate(numbers)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_compare_what_is_at_the_threshold_and_little_below(threshold: float) -> None:
    bands = Bands.of(threshold)
    assert bands.rows * bands.count <= PERMUTATIONS
    assert bands.probability(threshold) >= 0.95
    assert bands.probability(threshold - 0.4) < 0.2


@pytest.mark.parametrize("parts", [1, 4])
def test_near_copies_are_those_that_comparing_all_with_all_finds(parts: int) -> None:
    source = random.Random(2)
    texts = []
    for _ in range(60):
        one = " ".join(source.choices(WORDS, k=200))
        texts += [one, *(variant(one, source.choice([1, 2, 40, 90]), source) for _ in range(source.randrange(4)))]
    source.shuffle(texts)
    signatures = np.stack([signature_of(plain_hashes(text)) for text in texts])
    cut = np.array_split(signatures, parts)
    bands = Bands.of(0.8)
    keys = [bands.keys(part) for part in cut]
    found = near_copies([[part[band] for part in keys] for band in range(bands.count)], Signatures(cut), np.zeros(len(texts), bool), 0.8)
    true = [max((jaccard(text, earlier) for earlier in texts[:place]), default=0.0) for place, text in enumerate(texts)]
    clear = [(copy, value) for copy, value in zip(found.tolist(), true, strict=True) if not 0.7 < value < 0.9]
    assert [copy for copy, _ in clear] == [value >= 0.9 for _, value in clear]
    assert sum(found) > 20


def test_documents_that_are_gone_link_nothing() -> None:
    signatures = np.stack([signature_of(plain_hashes("the same words over and over again here"))] * 3)
    keys = Bands.of(0.8).keys(signatures)
    found = near_copies([[band] for band in keys], Signatures([signatures]), np.array([True, False, False]), 0.8)
    assert found.tolist() == [False, False, True]


@given(st.text(max_size=60))
@settings(max_examples=50)
def test_case_punctuation_and_spacing_make_no_other_document(text: str) -> None:
    one, other = (digest_of(plain_hashes(version)) for version in (text, f"  {text.upper().lower()} !"))
    if text.lower().casefold() == text.upper().lower().casefold():
        assert one.tolist() == other.tolist()


@given(st.text(alphabet=st.characters() | st.sampled_from("aB_ .,-é你\u0307İß\n  abc defg"), max_size=60))
def test_plain_words_are_runs_of_letters_and_digits_of_the_folded_text_and_single_east_asian_characters(text: str) -> None:
    for whole in (text, "much, " * 60 + text + "_ASCII " * 60):  # where other characters are few, only their surroundings are looked at
        slow = re.findall(f"[{EAST_ASIAN}]|[^\\W{EAST_ASIAN}]+", whole.casefold())
        assert plain_words(whole, _foreign) == [word.encode("utf-8", "surrogatepass") for word in slow]
