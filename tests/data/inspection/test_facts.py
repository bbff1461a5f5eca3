"""Verdicts on token ids, without a tokenizer: BOS is 1, the end of a turn 2, unknown 3, words from 10 on."""

from typing import Any

import pytest

from data.chat import Tokens
from data.formats import Chat, Record, Text
from data.inspection.facts import Facts, Marks, shared_prefix, special_words, verdicts_of, words_of
from data.inspection.views import Lens, View
from tests.data.test_verdicts import pair, turns

MARKS = Marks(frozenset({2}), bos=1, unknown=3, special_words=("<|end|>",))
CHAT = Chat(turns("Q", "A"))


def lens(**counts: Any) -> Lens:
    return Lens(None, counts.pop("context", 100), counts.pop("room", 100), **counts)  # type: ignore[arg-type]


def tokens(ids: list[int], learned: str) -> Tokens:
    return Tokens(ids, [sign == "x" for sign in learned])


def verdicts(*sequences: Tokens, wants: Any = "chat", record: Record = CHAT, **counts: Any) -> dict[str, str]:
    facts = Facts(MARKS)
    for place, sequence in enumerate(sequences):
        facts.add(View(place, (sequence,)), record)
    return {verdict.name: verdict.level for verdict in verdicts_of(facts, lens(**counts), wants)}


GOOD = tokens([1, 10, 11, 12, 2], "..xxx")


def test_a_chat_whose_answer_and_end_are_learned_gets_no_verdict():
    assert verdicts(GOOD) == {}


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        (tokens([1, 10, 11, 12, 2], "....."), "nothing-learned"),
        (tokens([1, 10, 11, 12, 2], "xxxxx"), "everything-learned"),
        (tokens([1, 10, 11, 12, 2], "..xx."), "end-not-learned"),
        (tokens([1, 10, 11, 2, 12], "..x.."), "end-not-learned"),
        (tokens([1, 1, 10, 11, 2], "...xx"), "double-bos"),
    ],
)
def test_a_mask_or_a_start_that_ruins_training_is_an_error(sequence: Tokens, name: str):
    assert verdicts(sequence) == {name: "error"}


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        (tokens([1, 10, 11, 12, 2], "....."), "nothing-learned"),
        (tokens([1, 10, 11, 12, 2], "..xx."), "end-not-learned"),
        (tokens([1, 3, 11, 12, 2], "..xxx"), "unknown-tokens"),
    ],
)
def test_what_is_wrong_in_some_sequences_is_a_warning(sequence: Tokens, name: str):
    assert verdicts(GOOD, sequence) == {name: "warning"}


def test_text_is_learned_whole_and_prompts_not_at_all():
    assert verdicts(tokens([1, 10, 2], "xxx"), wants="text", record=Text("w")) == {}
    assert verdicts(tokens([1, 10, 2], "..."), wants="prompt") == {}
    assert verdicts(tokens([1, 10, 10], ".xx"), wants="text", record=Text("w")) == {"end-not-learned": "error"}


def test_each_answer_of_a_chat_has_an_end_of_its_own():
    assert verdicts(tokens([10, 11, 2, 10, 11, 12], ".xx.xx")) == {"end-not-learned": "warning"}


def test_bos_that_is_also_the_end_may_stand_twice():
    facts = Facts(Marks(frozenset({2}), bos=2))
    facts.add(View(0, (tokens([2, 2, 10, 2], "..xx"),)), CHAT)
    assert facts.double_bos == 0


def test_what_does_not_fit_or_cannot_be_rendered_is_told():
    assert verdicts(GOOD, shortened=1) == {"truncated": "warning"}
    assert verdicts(GOOD, dropped=1) == {"left-out": "warning"}
    assert verdicts(dropped=1) == {"left-out": "error"}
    assert verdicts(GOOD, wants="preference", context=4) == {"truncated": "warning"}
    assert verdicts(tokens([1, 10], ".."), wants="prompt", room=1) == {"truncated": "warning"}
    assert verdicts(GOOD, refused=["no tools", "no tools"], lost_system=2) == {"system-lost": "error", "refused": "error"}


def test_words_that_spell_a_special_token_are_told():
    assert verdicts(GOOD, record=Chat(turns("say <|end|> please", "A"))) == {"special-words": "warning"}
    assert special_words(["<|end|>", "</s>", "[INST]", "the", "-", "▁"]) == ("</s>", "<|end|>", "[INST]")
    assert list(words_of(pair("A", "B"))) == ["Q", "A", "B"]
    assert list(words_of(Text("W"))) == ["W"]


def test_what_both_conversations_of_a_pair_begin_with_is_counted():
    assert [shared_prefix([1, 2, 3], [1, 2, 4, 5]), shared_prefix([1], [1, 2]), shared_prefix([], [1])] == [2, 1, 0]
    facts = Facts(MARKS)
    facts.add(View(0, (tokens([1, 10, 2], ".xx"), tokens([1, 11, 2], ".xx"))), pair("A", "B"))
    assert (facts.shared, facts.tokens, facts.sizes) == (1, 6, [6])
