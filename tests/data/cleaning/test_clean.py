"""A document through everything, and what is counted."""

import pytest
from pydantic import ValidationError

from data.cleaning.clean import EMPTY, EXAM, LANGUAGE, Cleaner
from data.cleaning.config import Cleaning, Copies, Rules
from data.cleaning.overlap import exams_of
from data.cleaning.report import Report
from tests.data.cleaning.test_rules import prose

NO_EXAMS = exams_of([], 13)


def test_what_is_kept_is_repaired_and_what_goes_is_counted_with_its_reason() -> None:
    question = "A train leaves the station at nine and travels sixty miles an hour towards the bridge."
    cleaner = Cleaner(Cleaning(), exams_of([question, "Too short."], 13), ["web"])
    found = cleaner.batch((0, text) for text in (prose(), " \n", "short", prose(seed=1) + " " + question, "schÃ¶n " + prose(seed=2)))
    assert found.texts == [prose(), "schön " + prose(seed=2)]
    assert {rule: removed.documents for rule, removed in found.report.removed.items()} == {EMPTY: 1, "words_min": 1, EXAM: 1}
    assert found.report.removed["words_min"].examples == [("web", 1.0, "short")]
    assert found.report.repaired == 1
    assert len(found.digests_N2) == len(found.signatures_NP) == 2
    assert cleaner.exams.too_short == 1


def test_an_exams_words_are_found_across_case_and_punctuation_and_not_in_other_order() -> None:
    question = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    exams = exams_of([question], 13)
    cleaner = Cleaner(Cleaning(rules=None), exams, ["web"])
    texts = [question.upper().replace(" ", ", "), " ".join(reversed(question.split())), "x " + " ".join(question.split()[:12]) + " y"]
    assert cleaner.batch((0, text) for text in texts).texts == texts[1:]


def test_languages_are_kept_by_a_hint() -> None:
    german = "Der schnelle braune Fuchs springt über den faulen Hund, und alle Kinder lachen laut in der warmen Sonne des Nachmittags."
    english = "The quick brown fox jumps over the lazy dog, and all the children laugh loudly in the warm sun of the afternoon."
    cleaner = Cleaner(Cleaning(language=("de",), rules=None), NO_EXAMS, ["web"])
    found = cleaner.batch([(0, german), (0, english)])
    assert found.texts == [german]
    assert found.report.removed[LANGUAGE].documents == 1


def test_a_language_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError, match="no language 'german'"):
        Cleaning(language=("german",))


def test_with_everything_off_a_text_stays_as_it_is() -> None:
    text = "  schÃ¶n \x00 "
    off = Cleaning(repair=False, lines=None, rules=None, copies=Copies(exact=False, near=None))
    assert Cleaner(off, NO_EXAMS, ["web"]).batch([(0, text)]).texts == [text]


def test_long_documents_are_split_behind_the_rules() -> None:
    found = Cleaner(Cleaning(longest=300), NO_EXAMS, ["web"]).batch([(0, prose(24))])
    assert len(found.texts) > 3
    assert max(map(len, found.texts)) <= 300
    assert found.report.split == 1


def test_reports_add_up_and_come_back_from_json() -> None:
    import json

    one = Cleaner(Cleaning(), NO_EXAMS, ["web"]).batch([(0, "short"), (0, prose())]).report
    whole = Report()
    for _ in range(3):
        whole.merge(Report.of(json.loads(json.dumps(one.plain()))))
    assert (whole.documents, whole.removed["words_min"].documents) == (6, 3)
    assert len(whole.removed["words_min"].examples) == 3
    assert Rules().words_min == 50


def test_the_languages_that_settings_know_are_those_of_the_model() -> None:
    from py3langid import rank

    from data.cleaning.config import _LANGUAGES

    assert frozenset(code for code, _ in rank("any text")) == _LANGUAGES
