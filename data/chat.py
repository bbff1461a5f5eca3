"""Messages to ids and a mask of what is learned: one code path for SFT, reward model, rollout, evaluation and chat.

The whole chat is rendered to one text and that text is encoded once, so the ids are those of `apply_chat_template(tokenize=True)`.
What is learned is found in characters (`data.shape`) and brought to tokens by the tokenizer's offsets. A token is learned if it
begins inside an assistant turn, which lasts from the end of the generation prompt to the end of the end-of-turn token.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from data.errors import DataError
from data.formats import Chat, Message
from data.limits import time_limit
from data.shape import Span, rendered, shape_of, spans_of
from data.tokens import fast_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Learn = Literal["all", "last"]
BATCH = 1_000
TEMPLATE_SECONDS = 10.0
"""Processor time that a chat template has for being checked: it may be a stranger's."""


@dataclass(frozen=True)
class Tokens:
    """A rendered chat."""

    ids: list[int]
    learn: list[bool]
    """True where the model is trained to predict this token."""

    def ended(self) -> "Tokens":
        """Up to the last learned token: where a rollout of the same answer stops. ChatML, for one, writes a line break after it."""
        size = len(self.learn) - self.learn[::-1].index(True) if any(self.learn) else len(self.learn)
        return Tokens(self.ids[:size], self.learn[:size])


@dataclass
class Rendered:
    """Many rendered chats."""

    tokens: list[Tokens] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """For each of `tokens`, which chat it is."""
    shorter: set[int] = field(default_factory=set)
    """Chats that lost turns from their end to fit."""
    dropped: int = 0
    """Chats left out: nothing learned, or nothing that fits."""

    @property
    def shortened(self) -> int:
        return len(self.shorter)

    def notes(self) -> list[str]:
        return fit_notes(len(self.kept) + self.dropped, self.shortened, self.dropped)


def fit_notes(total: int, shortened: int, dropped: int) -> list[str]:
    """What became of chats that are too long, a sentence each."""
    lines = [f"{shortened:,} of {total:,} chats lost whole turns from their end to fit"] if shortened else []
    return lines + ([f"{dropped:,} of {total:,} chats are left out: no answer in them fits or is learned"] if dropped else [])


def render(
    tokenizer: "PreTrainedTokenizerFast",
    messages: Sequence[Message],
    *,
    learn: Learn = "all",
    tools: Sequence[dict[str, Any]] | None = None,
) -> Tokens:
    """One chat as ids and mask. `learn`: every assistant turn or the last one; a message's `train: false` takes it out.

    Raises DataError if the template refuses the chat, or if its answers cannot be masked exactly.
    """
    text, spans = spans_of(tokenizer, messages, tools)
    ids, starts = next(_encoded(tokenizer, [text]))
    return _masked(tokenizer, ids, starts, _chosen(messages, spans, learn))


def render_all(
    tokenizer: "PreTrainedTokenizerFast", chats: Sequence[Chat], *, learn: Learn = "all", max_tokens: int | None = None, before: int = 0
) -> Rendered:
    """Many chats, encoded in batches. A chat longer than `max_tokens` loses whole turns from its end until it fits; one that has
    nothing learned then is left out. Both are counted. Raises DataError with the number of chats that cannot be rendered; `before` is how many
    chats came before these, for its words.
    """
    result, refused = Rendered(), []
    for begin in range(0, len(chats), BATCH):
        batch: list[tuple[int, str, list[Span]]] = []
        for index, chat in enumerate(chats[begin : begin + BATCH], start=begin):
            try:
                text, spans = spans_of(tokenizer, chat.messages, chat.tools)
                batch.append((index, text, _chosen(chat.messages, spans, learn)))
            except DataError as error:
                refused.append(f"chat {before + index + 1:,}: {error}")
        encoded = _encoded(tokenizer, [text for _, text, _ in batch])
        for (index, _, spans), (ids, starts) in zip(batch, encoded, strict=True):
            tokens: Tokens | None = _masked(tokenizer, ids, starts, spans)
            if max_tokens is not None and len(ids) > max_tokens:
                tokens = _fitting(tokenizer, chats[index], learn, max_tokens)
                if tokens is not None:
                    result.shorter.add(index)
            if tokens is None or not any(tokens.learn):
                result.dropped += 1
            else:
                result.tokens.append(tokens)
                result.kept.append(index)
    if refused:
        raise DataError(f"{refused[0]} ({len(refused):,} of {len(chats):,} chats share this fault)")
    return result


def render_prompt(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] | None = None
) -> list[int]:
    """Ids after which the model answers: the chat with the generation prompt."""
    return render_prompts(tokenizer, [messages], tools=tools)[0]


def render_prompts(
    tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[Sequence[Message]], *, tools: Sequence[dict[str, Any]] | None = None
) -> list[list[int]]:
    """As `render_prompt`, for many."""
    shape_of(tokenizer)
    return [ids for ids, _ in _encoded(tokenizer, [rendered(tokenizer, messages, tools, prompt=True)[0] for messages in prompts])]


def render_answer(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], answer: str, *, tools: Sequence[dict[str, Any]] | None = None
) -> list[int]:
    """Ids that a model which gives this answer to these messages generates: words and end-of-turn token.

    Raises DataError where words and prompt melt into one token, so that no model could generate exactly these words.
    """
    prompt = render_prompt(tokenizer, messages, tools=tools)
    whole = render(tokenizer, [*messages, {"role": "assistant", "content": answer}], learn="last", tools=tools).ended()
    if whole.ids[: len(prompt)] != prompt:
        raise DataError(f"the answer {answer[:40]!r} melts into the last token of its prompt; no model can generate it")
    return whole.ids[len(prompt) :]


def end_ids(tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """Ids that end an answer: EOS, and the template's end-of-turn token where there is a template."""
    ends = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    if tokenizer.chat_template:
        ends.add(tokenizer.convert_tokens_to_ids(shape_of(tokenizer).end))
    return ends


def check_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Raise DataError, with the reason, if chats cannot be rendered and masked exactly with this tokenizer, or not in time."""
    late = DataError(f"the chat template did not end within {TEMPLATE_SECONDS:g} seconds on a chat of two words; it is broken or hostile")
    with time_limit(TEMPLATE_SECONDS, late):
        _check_template(tokenizer)


def _check_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} gives no offsets, so answers cannot be masked; wanted a fast tokenizer (tokenizer.json)"
        )
    ends = end_ids(tokenizer)
    if not tokenizer.chat_template:
        shape_of(tokenizer)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id in ends:
        token = tokenizer.pad_token
        raise DataError(
            f"the pad token {token!r} also ends answers; a `tokenizer` stage with `existing` gives the tokenizer a pad token of its own"
        )
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids, prompt = render(tokenizer, chat).ids, render_prompt(tokenizer, chat[:1])
    if ids[: len(prompt)] != prompt:
        raise DataError(
            "the tokenizer gives a prompt other ids alone than before an answer, so a policy would not see what it was trained on"
        )
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2 and tokenizer.bos_token_id not in ends:
        raise DataError(f"the chat template writes {tokenizer.bos_token!r} twice at the start")


def without_oldest(messages: Sequence[Message]) -> list[Message] | None:
    """The messages without their oldest exchange, system prompts kept; begins with a user turn. None if only one exchange is left."""
    system = [message for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    later = [index for index, message in enumerate(rest) if index and message["role"] == "user"]
    return [*system, *rest[later[0] :]] if later else None


def fit_prompts(
    tokenizer: "PreTrainedTokenizerFast", conversations: Sequence[Sequence[Message]], room: int
) -> list[tuple[list[Message], list[int]] | None]:
    """Each conversation and its prompt ids, its oldest exchanges dropped until it fits into `room` tokens; None where even the last one does not."""
    fitted: list[tuple[list[Message], list[int]] | None] = []
    for conversation, whole in zip(conversations, render_prompts(tokenizer, conversations), strict=True):
        messages: list[Message] | None = list(conversation)
        ids = list(whole)
        while messages is not None and len(ids) > room:
            messages = without_oldest(messages)
            ids = render_prompt(tokenizer, messages) if messages is not None else ids
        fitted.append(None if messages is None else (messages, ids))
    return fitted


def _encoded(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and each token's first character. The template writes all special tokens, so the tokenizer adds none: no double BOS."""
    # The Rust side itself: transformers' wrapper converts every encoding in Python and takes as long again.
    for encoding in fast_backend(tokenizer).encode_batch(list(texts), add_special_tokens=False):
        yield encoding.ids, [begin for begin, _ in encoding.offsets]


def _chosen(messages: Sequence[Message], spans: Sequence[Span], learn: Learn) -> list[Span]:
    answers = [message for message in messages if message["role"] == "assistant"]
    first = len(answers) - 1 if learn == "last" else 0
    return [span for message, span in list(zip(answers, spans, strict=True))[max(first, 0) :] if message.get("train", True)]


def _masked(tokenizer: "PreTrainedTokenizerFast", ids: list[int], starts: list[int], spans: Sequence[Span]) -> Tokens:
    """Bring spans from characters to tokens; each must end with the end-of-turn token, or the mask is wrong."""
    end = tokenizer.convert_tokens_to_ids(shape_of(tokenizer).end)
    learn = [False] * len(ids)
    for begin, stop in spans:
        first, last = bisect_left(starts, begin), bisect_left(starts, stop)
        if first >= last or ids[last - 1] != end:
            raise DataError(
                f"the end-of-turn token {shape_of(tokenizer).end!r} is not one token at the end of an answer; the tokenizer splits or changes it"
            )
        learn[first:last] = [True] * (last - first)
    return Tokens(ids, learn)


def _fitting(tokenizer: "PreTrainedTokenizerFast", chat: Chat, learn: Learn, max_tokens: int) -> Tokens | None:
    """The chat without as many last turns as it takes to fit; it still ends with an answer. None if not even the first answer fits."""
    answers = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
    for last in reversed(answers):
        tokens = render(tokenizer, chat.messages[: last + 1], learn=learn, tools=chat.tools).ended()
        if len(tokens.ids) <= max_tokens:
            return tokens if any(tokens.learn) else None
    return None
