"""Text as it was meant."""

import unicodedata

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning.repair import repaired


@pytest.mark.parametrize(
    ("broken", "meant"),
    [
        ("schÃ¶n, cafÃ© and naÃ¯ve", "schön, café and naïve"),
        ("itâ€™s â€œquotedâ€\x9d", "it’s “quoted”"),
        ("plain\r\nline\rends  \n", "plain\nline\nends"),
        ("bell\x07 and \x00nul, zero\u200bwidth, soft\u00adhyphen, \ufeffmark", "bell and nul, zerowidth, softhyphen, mark"),
        ("a\n\n\n\n\n\n\nb", "a\n\n\nb"),
        ("e\u0301", "é"),
        ("tabs\tstay; emoji 👩‍👩‍👧 too", "tabs\tstay; emoji 👩‍👩‍👧 too"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("Здравствуйте, 你好, مرحبا", "Здравствуйте, 你好, مرحبا"),
    ],
)
def test_what_was_broken_is_as_it_was_meant(broken: str, meant: str) -> None:
    assert repaired(broken) == meant


@given(st.text(max_size=80))
def test_repair_is_done_once_and_for_all_and_leaves_one_unicode_form_without_controls(text: str) -> None:
    once = repaired(text)
    assert repaired(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in once)


@pytest.mark.parametrize("word", ["Ã©tÃ©", "â€œ", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "Â£100", "naïve", "São Paulo", "Ångström", "œuvre", "œ€¥", "ãƒ†ã‚¹ãƒˆ"])
@pytest.mark.parametrize("around", ["{}", "said {} twice", "line\n{}\nline", "a,{};b"])
def test_looking_at_foreign_words_alone_repairs_what_ftfy_repairs_in_the_whole(word: str, around: str) -> None:
    text = around.format(word)
    assert repaired(text) == unicodedata.normalize("NFC", ftfy.fix_encoding(text))
