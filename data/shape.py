"""What a chat template does with the assistant's turns, found out by rendering marked conversations and verified on every chat.

Three ways to find where an assistant turn begins (after the generation prompt) and ends (after the end-of-turn token), best first:
1. the template's own generation markers, where they agree with 2 on a probe;
2. a skeleton: the same conversation with a mark in place of each message's words; the text must re-assemble from skeleton and words;
3. incremental rendering: the conversation up to the turn must be a prefix of the whole, and the turn must hold the assistant's words.
What none of them can verify is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from data.errors import DataError
from data.formats import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
"""Begin and end of one assistant turn, in characters of the rendered text: the words as the template writes them, and the end-of-turn token."""

_MARK = re.compile(r"qZ7xK(\d+)Kx7Zq")
_THINKING = re.compile(r"\s*(<think>.*</think>\s*)?", re.DOTALL)
"""What may stand between generation prompt and words: white space or a thinking part."""


class UnverifiedError(Exception):
    """This way of finding spans does not fit this chat."""


@dataclass(frozen=True)
class Shape:
    """How a template writes assistant turns."""

    end: str
    """The end-of-turn token."""
    header: str
    """What the generation prompt adds after the last turn; may be empty (Llama 2, Mistral)."""
    lead: str
    """What stands between header and words; the model generates it."""
    marked: bool
    """The template's generation markers are right."""


_SHAPES: "WeakKeyDictionary[Any, tuple[str, Shape]]" = WeakKeyDictionary()


def shape_of(tokenizer: "PreTrainedTokenizerFast") -> Shape:
    """The shape of the tokenizer's template, probed once. Raises DataError if answers could not be masked exactly."""
    template = template_of(tokenizer)
    known = _SHAPES.get(tokenizer)
    if known is None or known[0] != template:
        known = _SHAPES[tokenizer] = (template, _probe(tokenizer))
    return known[1]


def template_of(tokenizer: "PreTrainedTokenizerFast", tools: Sequence[dict[str, Any]] | None = None) -> str:
    """Source of the chat template. Raises DataError if there is none."""
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template; a `tokenizer` stage with `existing` adds one")
    return str(tokenizer.get_chat_template(None, list(tools) if tools else None))


def rendered(
    tokenizer: "PreTrainedTokenizerFast",
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    *,
    prompt: bool = False,
) -> tuple[str, list[Span]]:
    """The text that the template writes, and the spans of its generation markers. Raises DataError if the template refuses."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    plain = [{key: value for key, value in message.items() if value is not None and key != "train"} for message in messages]
    template = template_of(tokenizer, tools)
    try:
        texts, indices = render_jinja_template(
            conversations=[plain],
            tools=list(tools) if tools else None,
            chat_template=template,
            return_assistant_tokens_mask=_has_markers(template),
            add_generation_prompt=prompt,
            **tokenizer.special_tokens_map,
        )
    except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"the chat template refuses a chat of {_roles(messages)}: {error}") from error
    return str(texts[0]), [tuple(span) for span in indices[0]] if indices else []


@lru_cache(maxsize=8)
def _has_markers(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(str(message["role"]) for message in messages)


# The probe -----------------------------------------------------------------------------------------------------------------------------


def _probe(tokenizer: "PreTrainedTokenizerFast") -> Shape:
    chat = [{"role": role, "content": mark(index)} for index, role in enumerate(("user", "assistant", "user", "assistant"))]
    text, marked = rendered(tokenizer, chat)
    asked, _ = rendered(tokenizer, chat[:1], prompt=True)
    bare, _ = rendered(tokenizer, chat[:1])
    if [int(number) for number in _MARK.findall(text)] != [0, 1, 2, 3]:
        raise DataError(
            "the chat template does not write every message of a plain chat exactly once and in order, so answers cannot be masked"
        )
    if not text.startswith(asked):
        raise DataError(
            f"the chat template's generation prompt ends with {asked[-30:]!r}, which it does not write before a recorded answer"
        )
    lead = text[len(asked) : text.index(mark(1))]
    if not _THINKING.fullmatch(lead):
        raise DataError(f"the chat template writes {lead!r} before an answer but not in its generation prompt")
    header = asked[len(bare) :] if asked.startswith(bare) else ""
    ends = {_end_token(tokenizer, text[text.index(mark(index)) + len(mark(index)) :]) for index in (1, 3)}
    if len(ends) > 1:
        raise DataError(f"the chat template ends answers in different ways ({', '.join(sorted(ends))})")
    shape = Shape(ends.pop(), header, lead, marked=False)
    spans = _by_skeleton(chat, text, text, shape)
    agrees = len(marked) == len(spans) and [ended(text, span, shape) for span in marked] == spans
    return Shape(shape.end, shape.header, shape.lead, agrees)


def _end_token(tokenizer: "PreTrainedTokenizerFast", tail: str) -> str:
    """The special token that follows the assistant's words, white space aside."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special or token.content == tokenizer.eos_token]
    found = [token for token in special if tail.lstrip().startswith(token)]
    if not found:
        raise DataError(
            f"the chat template writes no special token after an answer (found {tail[:30]!r}), so the model would never learn to stop"
        )
    return str(max(found, key=len))


def mark(index: int) -> str:
    """Stands for the words of message `index`; no template changes it."""
    return f"qZ7xK{index}Kx7Zq"


# The spans of a chat ---------------------------------------------------------------------------------------------------------------------


def spans_of(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None
) -> tuple[str, list[Span]]:
    """The rendered text, and a verified span for each assistant turn in order. Raises DataError where that is impossible."""
    shape = shape_of(tokenizer)
    text, marked = rendered(tokenizer, messages, tools)
    _nothing_lost(messages, tools, text)
    answers = sum(message["role"] == "assistant" for message in messages)
    if shape.marked and len(marked) == answers:
        return text, [ended(text, span, shape) for span in marked]
    for which in (_cached_skeleton, _own_skeleton):
        try:
            return text, _by_skeleton(messages, text, which(tokenizer, messages, tools), shape)
        except UnverifiedError:
            continue
    return text, _by_prefix(tokenizer, messages, tools, text, shape)


def _nothing_lost(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, text: str) -> None:
    """Some templates drop a system prompt, tools or tool calls without a word; the model would learn to act on orders that it never saw."""
    for message in messages:
        if message["role"] in ("system", "user") and str(message["content"]).strip() not in text:
            raise DataError(f"the chat template loses or rewrites the {message['role']} turn {str(message['content'])[:40]!r}")
        for call in message.get("tool_calls") or []:
            if str(call["function"]["name"]) not in text:
                raise DataError(
                    f"the chat template loses the call of the tool {call['function']['name']!r}; wanted a template with tool calls"
                )
    for tool in tools or []:
        if str(tool.get("function", tool).get("name")) not in text:
            raise DataError(f"the chat template loses the tool {tool.get('function', tool).get('name')!r}; wanted a template with tools")


def ended(text: str, span: Span, shape: Shape) -> Span:
    """The span with its end at the end of its end-of-turn token: markers may leave the token out or take the line break after it in."""
    begin, end = span
    if text.startswith(shape.end, end):
        return begin, end + len(shape.end)
    last = text.rfind(shape.end, begin, end)
    if last < 0 or text[last + len(shape.end) : end].strip():
        raise DataError(f"an answer that does not end with {shape.end!r}: {text[begin:end][-40:]!r}")
    return begin, last + len(shape.end)


_SKELETONS: "WeakKeyDictionary[Any, dict[str, str]]" = WeakKeyDictionary()


def _cached_skeleton(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
    """Skeleton of all chats with these speakers, so that most chats cost one rendering."""
    known = _SKELETONS.setdefault(tokenizer, {})
    marked = [{**message, "content": mark(index) if message["content"] else ""} for index, message in enumerate(messages)]
    key = json.dumps([template_of(tokenizer, tools), marked, tools], sort_keys=True)
    if key not in known:
        if len(known) >= 512:
            known.clear()
        known[key] = _skeleton(tokenizer, marked, tools)
    return known[key]


def _own_skeleton(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
    """Skeleton with marks for the assistant's words only: for templates that look into what others say."""
    marked = [
        {**message, "content": mark(index)} if message["role"] == "assistant" and message["content"] else message
        for index, message in enumerate(messages)
    ]
    return _skeleton(tokenizer, marked, tools)


def _skeleton(tokenizer: "PreTrainedTokenizerFast", marked: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
    try:
        return rendered(tokenizer, marked, tools)[0]
    except DataError as error:
        raise UnverifiedError from error


def _by_skeleton(messages: Sequence[Message], text: str, skeleton: str, shape: Shape) -> list[Span]:
    """Walk the text along the skeleton: literal text must match, and each mark stands for that message's words."""
    parts = _MARK.split(skeleton)
    literals, order = parts[::2], [int(number) for number in parts[1::2]]
    wanted = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if len(set(order)) < len(order) or not set(wanted) <= set(order) or not text.startswith(literals[0]):
        raise UnverifiedError
    position, spans = len(literals[0]), {}
    for place, index in enumerate(order):
        words = _words_at(text, position, str(messages[index]["content"]), literals[place + 1])
        if index in wanted:
            spans[index] = (_begin(literals[place], position, shape), _end(text, position + len(words), len(literals[place + 1]), shape))
        position += len(words) + len(literals[place + 1])
    if position != len(text):
        raise UnverifiedError
    return [spans[index] for index in wanted]


def _words_at(text: str, position: int, content: str, following: str) -> str:
    """The form of the content that stands here: as it is, trimmed, or escaped as JSON."""
    for words in (
        content,
        content.strip(),
        content.lstrip(),
        content.rstrip(),
        content.strip("\n"),
        json.dumps(content, ensure_ascii=False)[1:-1],
    ):
        if text.startswith(words, position) and text.startswith(following, position + len(words)):
            return words
    raise UnverifiedError


def _begin(literal: str, position: int, shape: Shape) -> int:
    """Where generation begins: after the header, before what stands between it and the words."""
    if shape.header:
        place = literal.rfind(shape.header)
        lead = literal[place + len(shape.header) :]
        if place < 0 or not _THINKING.fullmatch(lead):
            raise UnverifiedError
    else:
        lead = shape.lead
        if not literal.endswith(lead):
            raise UnverifiedError
    return position - len(lead)


def _end(text: str, words_end: int, room: int, shape: Shape) -> int:
    """End of the first end-of-turn token within the literal text that follows the words; tool calls may stand between."""
    place = text.find(shape.end, words_end, words_end + room)
    if place < 0:
        raise UnverifiedError
    return place + len(shape.end)


def _by_prefix(
    tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None, text: str, shape: Shape
) -> list[Span]:
    """Incremental rendering: for answers without words (tool calls only) and templates that rewrite thinking parts."""
    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = rendered(tokenizer, messages[:index], tools, prompt=True) if index else ("", [])
        end = text.find(shape.end, len(before) + _known(text, len(before), str(message["content"])))
        if not text.startswith(before) or end < 0:
            raise DataError(
                f"the chat template rewrites earlier turns of a chat of {_roles(messages)}, so answer {len(spans) + 1} cannot be masked exactly"
            )
        if not _says(text[len(before) : end], message):
            raise DataError(f"the chat template writes {text[len(before) : end][:60]!r} for the answer {str(message['content'])[:60]!r}")
        spans.append((len(before), end + len(shape.end)))
    return spans


def _known(text: str, begin: int, content: str) -> int:
    """Length of the content where it stands at `begin`, so that an end-of-turn token that the words quote does not end them."""
    return len(content) if content and text.startswith(content, begin) else 0


def _says(turn: str, message: Message) -> bool:
    """The turn holds the assistant's words, with a thinking part before or tool calls behind them; or the words without their thinking part."""
    content = str(message["content"]).strip()
    after = re.sub(r"^<think>.*</think>", "", content, flags=re.DOTALL).strip()
    lead = _THINKING.match(turn)
    spoken = turn[lead.end() :] if lead else turn
    return (bool(message.get("tool_calls")) and spoken.startswith(content)) or spoken.strip() in (content, after)
