"""An honest control beside the loss on held-out chats: the loss on the same answers, each behind another chat's question.

A model that only knows what answers look like loses nothing when the question is swapped; one that reads it does.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from data.chat import Learn, Tokens, render_all
from data.formats import Chat
from stages.core.seeds import seed_for


def behind_other_prompts(
    tokenizer: Any, chats: Sequence[Chat], *, learn: Learn, max_tokens: int, seed: int
) -> tuple[list[Tokens], list[str]]:
    """Every chat that fits, with its last question swapped, and notes; nothing where all ask the same.

    The learned tokens are those of `render_all` with the same settings, one by one, so that the two losses can be compared. For this a chat
    stays as it is where the swapped one does not fit, and earlier answers keep their questions: the control may lie too near, never too far.
    """
    own = render_all(tokenizer, chats, learn=learn, max_tokens=max_tokens)
    swapped = render_all(tokenizer, swap_questions([chats[index] for index in own.kept], seed), learn=learn)
    other = dict(zip(swapped.kept, swapped.tokens, strict=True))
    control = [
        there if (there := other.get(place)) and len(there.ids) <= max_tokens and _learned(there) == _learned(here) else here
        for place, here in enumerate(own.tokens)
    ]
    unchanged = sum(there.ids == here.ids for there, here in zip(control, own.tokens, strict=True))
    if unchanged == len(control):
        return [], ["no control with shuffled prompts: no held-out chat can be given another one's question"]
    kept = [f"shuffled prompts: {unchanged:,} of {len(control):,} held-out chats keep their own, as no other one fits"] if unchanged else []
    return control, kept


def swap_questions(chats: Sequence[Chat], seed: int) -> list[Chat]:
    """Each chat with the last question of another one; the same for the same seed. A chat that answers no question stays as it is."""
    asking = {number: place for number, chat in enumerate(chats) if (place := _question(chat)) is not None}
    words = [str(chats[number].messages[place]["content"]) for number, place in asking.items()]
    swapped = list(chats)
    for (number, place), there in zip(asking.items(), derangement(words, seed), strict=True):
        messages, tools = chats[number].messages, chats[number].tools
        swapped[number] = Chat([*messages[:place], {**messages[place], "content": words[there]}, *messages[place + 1 :]], tools)
    return swapped


def derangement(items: Sequence[str], seed: int) -> list[int]:
    """A permutation that gives every place an item that differs from its own; where one item is too frequent for that, as many as can be.

    Equal items stand together in a circle, whose order is random, and which is turned by the size of the largest group.
    """
    count = Counter(items)
    rank = {item: place for place, item in enumerate(Random(seed_for(seed, "derangement")).sample(sorted(count), len(count)))}
    circle = sorted(range(len(items)), key=lambda place: rank[items[place]])
    turn = max(count.values(), default=0)
    return [there for _, there in sorted(zip(circle, circle[turn:] + circle[:turn], strict=True))]


def _question(chat: Chat) -> int | None:
    """Which message is the last user turn before the last answer."""
    last = max((place for place, message in enumerate(chat.messages) if message["role"] == "assistant"), default=0)
    return max((place for place, message in enumerate(chat.messages[:last]) if message["role"] == "user"), default=None)


def _learned(tokens: Tokens) -> list[int]:
    return [number for number, learn in zip(tokens.ids, tokens.learn, strict=True) if learn]
