"""Whatever people say, the mask covers the assistant's words and end-of-turn tokens, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chat import render, render_all, render_prompt
from data.formats import Chat
from data.shape import shape_of
from tests.data.chats import SHAPES, Message, tokenizer

_SPECIAL = sorted({token for tokens, bos, eos, _ in SHAPES.values() for token in (*tokens, bos, eos) if token} | {"<think>", "</think>"})

words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Co"], include_characters="\n"), min_size=1, max_size=30)
tidy = words.map(str.strip).filter(lambda text: text and not any(token in text for token in _SPECIAL))
"""Words without white space around them, which some templates trim and some tokenizers join with the line break before."""


def conversation(said: list[str], system: str | None) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": "user" if index % 2 == 0 else "assistant", "content": text} for index, text in enumerate(said)]


chats = st.builds(conversation, st.lists(tidy, min_size=2, max_size=6), st.none())
chats_with_system = st.builds(conversation, st.lists(tidy, min_size=2, max_size=6), st.none() | tidy)


def learned_text(name: str, messages: list[Message]) -> str:
    fast, tokens = tokenizer(name), render(tokenizer(name), messages)
    return str(fast.decode([token for token, learn in zip(tokens.ids, tokens.learn, strict=True) if learn]))


def expected(name: str, messages: list[Message]) -> str:
    """The answers, as each template writes them."""
    before, after = {"llama2": (" ", " "), "mistral": (" ", "")}.get(name, ("", ""))
    answers = [str(message["content"]) for message in messages if message["role"] == "assistant"]
    text = "".join(f"{before}{answer}{after}{shape_of(tokenizer(name)).end}" for answer in answers)
    if name == "qwen" and messages[-1]["role"] == "assistant":
        cut = len(text) - len(answers[-1]) - len("<|im_end|>")
        text = f"{text[:cut]}<think>\n\n</think>\n\n{text[cut:]}"
    return text


@pytest.mark.parametrize("name", ["turns", "chatml-ours", "chatml", "llama2", "llama3", "qwen", "zephyr"])
@settings(max_examples=25, deadline=None)
@given(chats_with_system)
def test_exactly_the_answers_and_their_ends_are_learned(name: str, messages: list[Message]) -> None:
    assert learned_text(name, messages) == expected(name, messages)


@pytest.mark.parametrize("name", ["mistral", "gemma"])
@settings(max_examples=25, deadline=None)
@given(chats)
def test_exactly_the_answers_and_their_ends_are_learned_without_system_prompts_too(name: str, messages: list[Message]) -> None:
    assert learned_text(name, messages) == expected(name, messages)


raw = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: not any(token in text for token in _SPECIAL))


@settings(max_examples=60, deadline=None)
@given(st.lists(raw, min_size=2, max_size=5))
def test_in_our_own_template_any_words_at_all_are_masked_exactly_and_prompts_are_prefixes(said: list[str]) -> None:
    """White space, control characters and empty turns included: each speaker is one special token, so nothing melts together."""
    messages, fast = conversation(said, None), tokenizer("turns")
    assert learned_text("turns", messages) == "".join(
        f"{message['content']}<|end|>" for message in messages if message["role"] == "assistant"
    )
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    ids = render(fast, messages).ids
    assert all(ids[: len(prompt)] == prompt for prompt in (render_prompt(fast, messages[:index]) for index in answers))


@settings(max_examples=30, deadline=None)
@given(st.lists(chats_with_system, min_size=1, max_size=4), st.integers(2, 60))
def test_no_kept_chat_is_too_long_or_teaches_nothing_and_none_is_lost_uncounted(many: list[list[Message]], length: int) -> None:
    result = render_all(tokenizer("chatml"), [Chat(messages) for messages in many], max_tokens=length)
    assert all(len(tokens.ids) <= length and any(tokens.learn) for tokens in result.tokens)
    assert len(result.kept) + result.dropped == len(many)
    assert result.kept == sorted(set(result.kept))
