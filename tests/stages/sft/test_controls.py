"""Does a model read the question? The same answers behind others' questions say it."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from data.chat import render_all
from data.formats import Chat
from stages.sft.controls import behind_other_prompts, derangement, swap_questions

QUESTIONS = ["who sat", "who ran", "where", "over what", "near what", "who saw"]
ANSWERS = ["the cat", "two dogs", "on a mat", "green hills", "old water", "seven birds"]


def chat(*turns, system=None):
    messages = [{"role": "system", "content": system}] if system else []
    return Chat([*messages, *({"role": ("user", "assistant")[place % 2], "content": words} for place, words in enumerate(turns))])


def said(chats, role):
    return [[message["content"] for message in chat.messages if message["role"] == role] for chat in chats]


@given(st.lists(st.sampled_from("abc"), max_size=6), st.integers(0, 3))
def test_a_derangement_moves_every_item_to_another_or_as_many_as_any_permutation_can(items, seed):
    def unmoved(order):
        return sum(items[there] == item for item, there in zip(items, order, strict=True))

    found = derangement(items, seed)
    assert sorted(found) == list(range(len(items)))
    assert unmoved(found) == min(map(unmoved, permutations(range(len(items)))))


def test_only_the_last_answered_question_is_swapped_and_the_seed_decides_for_which():
    chats = [
        chat("hello", "hi", question, answer, "and then", system="be brief") for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    swapped = swap_questions(chats, seed=1)
    assert said(swapped, "assistant") == said(chats, "assistant")
    assert said(swapped, "system") == said(chats, "system")
    asked = said(swapped, "user")
    assert {(first, last) for first, _, last in asked} == {("hello", "and then")}
    assert sorted(question for _, question, _ in asked) == sorted(QUESTIONS)
    assert all(here[1] != there for here, there in zip(asked, QUESTIONS, strict=True))
    assert swapped == swap_questions(chats, seed=1) != swap_questions(chats, seed=2)


def test_the_learned_tokens_are_the_same_one_by_one_even_where_a_swapped_chat_would_not_fit(tokenizer):
    chats = [chat(question, answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
    chats += [chat("hills " * 20, "a cat"), chat("where", "on a mat", "who ran", "the dogs " * 40), chat("cat " * 99, "left out")]

    def learned(tokens):
        return [[number for number, learn in zip(each.ids, each.learn, strict=True) if learn] for each in tokens]

    own = render_all(tokenizer, chats, max_tokens=48)
    assert own.shortened
    assert own.dropped
    control, notes = behind_other_prompts(tokenizer, chats, learn="all", max_tokens=48, seed=0)
    assert learned(control) == learned(own.tokens)
    assert max(len(each.ids) for each in control) <= 48
    kept = sum(here.ids == there.ids for here, there in zip(control, own.tokens, strict=True))
    assert 1 <= kept < 4
    assert str(kept) in notes[0]


def test_there_is_no_control_where_all_ask_the_same(tokenizer):
    control, notes = behind_other_prompts(tokenizer, [chat("where", answer) for answer in ANSWERS], learn="all", max_tokens=64, seed=0)
    assert not control
    assert "no control" in notes[0]
