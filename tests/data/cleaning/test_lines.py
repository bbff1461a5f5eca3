"""Inside a document: lines, personal data, splitting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning.config import Lines
from data.cleaning.lines import scrubbed, split_text, without_lines


def test_lines_of_boilerplate_go_and_prose_on_the_same_words_stays() -> None:
    text = (
        "Please enable JavaScript to view this.\nA good line.\n\nWe use cookies. Read our Privacy Policy.\n"
        + "The history of JavaScript " * 20
    )
    clean, gone = without_lines(text, Lines())
    assert gone == 2
    assert clean.startswith("A good line.\n\nThe history of JavaScript")


def test_lines_without_an_end_or_with_few_words_go_where_asked() -> None:
    text = "A heading\nA whole sentence stands here.\nNo.\n"
    assert without_lines(text, Lines(unfinished=True))[0] == "A whole sentence stands here.\nNo."
    assert without_lines(text, Lines(words_min=3))[0] == "A whole sentence stands here."
    assert without_lines("untouched \n", Lines()) == ("untouched \n", 0)


@pytest.mark.parametrize(
    ("kind", "text", "clean"),
    [
        ("email", "write to jane.doe+x@mail.example.org, or not@all", "write to [EMAIL], or not@all"),
        ("ip", "from 192.168.0.1 but not 1.2.3.4.5 or 300.1.1.1", "from [IP] but not 1.2.3.4.5 or 300.1.1.1"),
        ("phone", "call +49 030 1234567 or (555) 123-4567, in 2019-2020", "call [PHONE] or [PHONE], in 2019-2020"),
        ("card", "card 4111 1111 1111 1111, not 4111 1111 1111 1112", "card [CARD], not 4111 1111 1111 1112"),
    ],
)
def test_personal_data_is_replaced(kind: str, text: str, clean: str) -> None:
    assert scrubbed(text, (kind,))[0] == clean
    assert scrubbed(text, ()) == (text, 0)


@given(st.text(alphabet="ab c.\n!", max_size=300), st.integers(5, 60))
def test_a_split_loses_no_word_and_keeps_to_the_length(text: str, longest: int) -> None:
    parts = split_text(text, longest)
    assert all(0 < len(part) <= longest for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_split_goes_between_paragraphs_else_sentences_else_words() -> None:
    assert split_text("One two.\n\nThree four.\n\nFive.", 22) == ["One two.\n\nThree four.", "Five."]
    assert split_text("One two. Three four. Five six.", 21) == ["One two. Three four.", "Five six."]
    assert split_text("one two three four", 9) == ["one two", "three", "four"]
    assert split_text("abcdefgh", 3) == ["abc", "def", "gh"]
    assert split_text("山高水长。春去秋来。", 5) == ["山高水长。", "春去秋来。"]
