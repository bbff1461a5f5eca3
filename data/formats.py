"""Rows of many shapes become one of four records. Pure: dictionaries in, records out; imports nothing of ours but the pure `data.columns`.

A row is read by its format (`READERS`), then turned into the record that a stage wants where nothing is lost; else it is a `MisfitError`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from data.columns import ALIASES, UNKNOWN, MisfitError, columns_of, detect, get, mapped, nearby, need

Message = dict[str, Any]
"""`role` (system, user, assistant, tool) and `content`; where there are any: `tool_calls`, `name`, `tool_call_id`, `reasoning_content`, `train`."""


@dataclass(frozen=True)
class Text:
    """One document."""

    text: str
    nats: float | None = None
    """Its negative log-likelihood under the true generator, where that is known."""


@dataclass(frozen=True)
class Chat:
    """A conversation with at least one assistant turn."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Preference:
    """Two continuations of one prompt; both begin with an assistant turn."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Columns that we do not read, by their own names."""
    weight: float = 1.0  # 1 over the pairs of a ranked list: a prompt with many answers counts no more than others (Ouyang et al. 2022)


@dataclass(frozen=True)
class Prompt:
    """What is to be answered; ends before an assistant turn."""

    messages: list[Message]
    reference: Any = None
    """What a rule grades the answer by; None where unknown."""
    extra: dict[str, Any] = field(default_factory=dict)


Record = Text | Chat | Preference | Prompt


ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "bard", "bing", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
    **dict.fromkeys(("observation", "tool", "function", "function_response", "tool_response", "ipython"), "tool"),
}
"""Spellings of speakers, lower case."""

_TURN = re.compile(r"\n\n(Human|Assistant):")


def normalise(value: Mapping[str, Any] | str, format: str, columns: Mapping[str, str], want: type[Record] | None) -> list[Record]:
    """Records that a row holds: one, or several for ranked lists. `want` None leaves the record that the format makes.

    Raises MisfitError if the row does not have the format, or cannot be turned into what is wanted.
    """
    row = mapped(value, columns)
    records = READERS[_detected(row, want) if format == "auto" else format](row)
    return records if want is None else [_as(record, want, value) for record in records]


def _detected(row: Mapping[str, Any], want: type[Record] | None) -> str:
    try:
        return detect(row)[0]
    except MisfitError as error:
        if error.what != UNKNOWN or want is None:
            raise
        wanted = f"{WANTED[want]}, or `format` and `columns` in the recipe (docs/data-formats.md)"
        raise MisfitError(UNKNOWN, error.found + nearby(row), wanted) from error


def _text(row: dict[str, Any]) -> list[Record]:
    return [Text(_words(need(row, "text"), "text"), _number(get(row, "nats"), "nats"))]


def _alpaca(row: dict[str, Any]) -> list[Record]:
    instruction, more = _words(need(row, "instruction"), "instruction"), _words(get(row, "input") or "", "input")
    messages = _system(row)
    for pair in get(row, "history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise MisfitError("history that is not pairs", _short(pair), "a list of [asked, answered]")
        messages += [_said("user", pair[0]), _said("assistant", pair[1])]
    messages += [_said("user", f"{instruction}\n{more}" if more else instruction), _said("assistant", need(row, "output"))]
    return [Chat(messages)]


def _messages(row: dict[str, Any]) -> list[Record]:
    return [Chat([*_system(row), *turns(need(row, "messages"))], _tools(get(row, "tools")))]


def _prompt_completion(row: dict[str, Any]) -> list[Record]:
    return [Chat(_system(row) + _asked(need(row, "prompt")) + _answered(need(row, "completion")), _tools(get(row, "tools")))]


def _question_answer(row: dict[str, Any]) -> list[Record]:
    return [Chat([*_system(row), _said("user", need(row, "question")), _said("assistant", need(row, "answer"))])]


def _prompt(row: dict[str, Any]) -> list[Record]:
    messages = _asked(get(row, "messages") or need(row, "prompt"))
    if messages[-1]["role"] == "assistant":
        raise MisfitError("a prompt that is answered", _short(messages[-1]["content"]), "a last turn that is not the assistant's")
    return [Prompt(_system(row) + messages, get(row, "reference"), _rest(row, "prompt", "messages", "reference", "system"))]


def _ranked(row: dict[str, Any]) -> list[Record]:
    """Every better answer against every worse one; answers without scores or ranks stand best first."""
    prompt, answers = _system(row) + _asked(need(row, "prompt")), [_answered(answer) for answer in need(row, "responses")]
    scores, ranks = (_numbers(get(row, name), name) for name in ("scores", "ranks"))
    worth = scores if scores is not None else [-rank for rank in ranks or range(len(answers))]
    if len(worth) != len(answers):
        raise MisfitError("scores do not match responses", f"{len(worth)} for {len(answers)} responses", "one score or rank a response")
    pairs = [(i, j, a - b if scores else None) for i, a in enumerate(worth) for j, b in enumerate(worth) if a > b]
    extra = _rest(row, "prompt", "responses", "scores", "ranks", "system")
    return [Preference(prompt, answers[i], answers[j], margin, extra, 1 / len(pairs)) for i, j, margin in pairs]


def _preference(row: dict[str, Any]) -> list[Record]:
    chosen, rejected = _answered(need(row, "chosen")), _answered(need(row, "rejected"))
    prompt = _system(row) + (_asked(given) if (given := get(row, "messages") or get(row, "prompt")) else [])
    shared = _shared(chosen, rejected) if chosen[0]["role"] != "assistant" else 0
    if shared and prompt and chosen[:shared][-len(prompt) :] != prompt[-shared:]:
        raise MisfitError("prompt and answers disagree", _short(chosen[0]["content"]), "answers that repeat the prompt or leave it out")
    prompt, chosen, rejected = (chosen[:shared] if shared else prompt), chosen[shared:], rejected[shared:]
    if not prompt or [part["role"] == "assistant" for part in (prompt[-1], chosen[0], rejected[0])] != [False, True, True]:
        raise MisfitError("chosen and rejected do not answer one prompt", _short(chosen), "conversations that part at an assistant turn")
    extra = _rest(row, "prompt", "messages", "chosen", "rejected", "margin", "system")
    return [Preference(prompt, chosen, rejected, _number(get(row, "margin"), "margin"), extra)]


def _shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """Messages that both begin with; where the two are equal to the end, all but the last turn."""
    parting = (index for index, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    return min(next(parting, len(chosen)), len(chosen) - 1, len(rejected) - 1)


READERS: dict[str, Callable[[dict[str, Any]], list[Record]]] = {
    **{"text": _text, "alpaca": _alpaca, "sharegpt": _messages, "messages": _messages, "prompt-completion": _prompt_completion},
    **{"question-answer": _question_answer, "preference": _preference, "ranked": _ranked, "prompt": _prompt},
}


def turns(value: Any) -> list[Message]:
    """Messages in any spelling, in ours. Raises MisfitError."""
    if not isinstance(value, list) or not value:
        raise MisfitError("no list of turns", _short(value), "a list of turns with 'role' and 'content' (or 'from' and 'value')")
    return [_turn(item) for item in value]


def _turn(item: Any) -> Message:
    speaker = item.get("role", item.get("from")) if isinstance(item, dict) else None
    role = ROLES.get(str(speaker).lower())
    if role is None:
        what = "unknown speaker" if speaker else "a turn without a speaker"
        raise MisfitError(what, _short(speaker or item), f"one of {', '.join(ROLES)}")
    content = item.get("content", item.get("value"))
    if role == "function_call":
        return _function_call(content)
    calls = item.get("tool_calls") or ([{"type": "function", "function": item["function_call"]}] if item.get("function_call") else None)
    message: Message = {"role": role, "content": _words("" if content is None and calls else content, "content")}
    message |= {key: item[key] for key in ("name", "tool_call_id") if item.get(key) is not None}
    reasoning = next((item[key] for key in ("reasoning_content", "thinking", "reasoning") if item.get(key)), None)
    message |= {"reasoning_content": reasoning} if reasoning else {}
    message |= {"tool_calls": [_call(call) for call in (calls if isinstance(calls, list) else [calls])]} if calls else {}
    learned = next((item[key] for key in ("train", "loss", "weight") if item.get(key) is not None), True)
    return message if learned else message | {"train": False}


def _function_call(content: Any) -> Message:
    """ShareGPT's function call: JSON with a name and arguments, or a list of these."""
    calls = _parsed(content, "a function call that is not JSON")
    return {"role": "assistant", "content": "", "tool_calls": [_call(call) for call in (calls if isinstance(calls, list) else [calls])]}


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise MisfitError("a tool call without a name", _short(call), "a function with 'name' and 'arguments'")
    arguments = _parsed(function.get("arguments", {}), "tool arguments that are not JSON")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: Any) -> list[dict[str, Any]] | None:
    """Tools as function schemas; an empty list or text is none."""
    value = _parsed(value, "tools that are not JSON") if value else None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise MisfitError("tools that are not schemas", _short(value), "a list of function schemas")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]


def _parsed(value: Any, what: str) -> Any:
    """The value, parsed if it is JSON text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise MisfitError(what, _short(value), "JSON") from error


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and isfinite(value):
        return float(value)
    raise MisfitError(f"'{name}' is not a number", f"{type(value).__name__} {_short(value)}", "a number")


def _numbers(values: Any, name: str) -> list[float] | None:
    if values is not None and not isinstance(values, list):
        raise MisfitError(f"'{name}' is not a list", _short(values), "a list of numbers")
    return None if values is None else [_number(value, name) or 0.0 for value in values]


def transcript(text: str) -> list[Message]:
    """Turns of a transcript with `\\n\\nHuman:` and `\\n\\nAssistant:`; turns of one speaker in a row become one."""
    parts = _TURN.split(text)
    messages: list[Message] = []
    for speaker, words in zip(parts[1::2], parts[2::2], strict=True):
        role, words = ROLES[speaker.lower()], words.strip()
        if messages and messages[-1]["role"] == role:
            words = f"{messages.pop()['content']}\n\n{words}".strip()
        messages.append(_said(role, words))
    return messages


def _asked(value: Any) -> list[Message]:
    """A prompt: text, a transcript or turns; a last empty assistant turn only marks where the answer goes."""
    if not isinstance(value, str):
        return turns(value)
    messages = transcript(value) if _TURN.match(value) else [_said("user", value)]
    messages = messages[:-1] if messages[-1] == _said("assistant", "") else messages
    if not messages:
        raise MisfitError("an empty prompt", _short(value), "at least one turn before the answer")
    return messages


def _answered(value: Any) -> list[Message]:
    """An answer: text, one turn, turns, or a whole transcript with its prompt."""
    if isinstance(value, str):
        return transcript(value) if _TURN.match(value) else [_said("assistant", value)]
    return turns([value] if isinstance(value, dict) else value)


def _system(row: Mapping[str, Any]) -> list[Message]:
    system = get(row, "system")
    return [_said("system", system)] if system else []


def _said(role: str, content: Any) -> Message:
    return {"role": role, "content": _words(content, role)}


def _words(content: Any, name: str) -> str:
    """Text, or the text of a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        other = next((part.get("type") for part in content if part.get("type", "text") != "text"), None)
        if other:
            raise MisfitError(f"'{other}' where text is expected", _short(content), "text parts only")
        return "".join(_words(part.get("text"), name) for part in content)
    raise MisfitError(f"'{name}' is not text", f"{type(content).__name__} {_short(content)}", "text")


def _rest(row: Mapping[str, Any], *read: str) -> dict[str, Any]:
    known = {next((alias for alias in ALIASES[name] if row.get(alias) is not None), name) for name in read}
    return {key: value for key, value in row.items() if key not in known}


def _as(record: Record, want: type[Record], row: Mapping[str, Any] | str) -> Record:
    """The record as another kind, where nothing that this kind needs would have to be invented; `row` is what it was read from."""
    made = _turned(record, want, row)
    asked = made.prompt if isinstance(made, Preference) else [] if isinstance(made, Text) else made.messages
    if asked and not any(message["role"] in ("user", "tool") for message in asked):
        raise MisfitError("no user turn", f"only {', '.join(message['role'] for message in asked)}", "a turn of the user that is answered")
    return made


def _turned(record: Record, want: type[Record], row: Mapping[str, Any] | str) -> Record:
    if want is Chat and isinstance(record, Chat) and not any(message["role"] == "assistant" for message in record.messages):
        roles = ", ".join(message["role"] for message in record.messages)
        raise MisfitError("no assistant turn", f"only {roles}", "at least one turn to learn from")
    if isinstance(record, want):
        return record
    if want is Prompt and isinstance(record, Preference):
        return Prompt(record.prompt, None, record.extra)
    if want is Prompt and isinstance(record, Chat):
        last = max((index for index, message in enumerate(record.messages) if message["role"] == "assistant"), default=None)
        if last == 0:
            raise MisfitError("nothing to answer", "a chat that begins with the assistant", "a user turn before the last assistant turn")
        return Prompt(record.messages[:last], None if last is None else record.messages[last]["content"])
    if want is Chat and isinstance(record, Preference):
        return Chat(record.prompt + record.chosen)
    if want is Text and not isinstance(record, Text):
        messages = record.prompt + record.chosen if isinstance(record, Preference) else record.messages
        return Text("\n\n".join(message["content"] for message in messages if message["content"]))
    found = "plain text" if isinstance(row, str) else f"columns {columns_of(row)}"
    made = type(record).__name__.lower()
    raise MisfitError(f"makes no {want.__name__.lower()}", f"{found}, which make a {made}", f"{WANTED[want]} (docs/data-formats.md)")


WANTED: dict[type[Record], str] = {
    Chat: "messages, or instruction and output, or question and answer, or prompt and completion",
    Preference: "chosen and rejected (and prompt, where they do not repeat it), or prompt and responses",
    Prompt: "prompt, or the columns of a chat or a preference",
    Text: "text",
}
"""Columns from which each record can be made."""


def _short(value: object, width: int = 60) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).split())
    return repr(text if len(text) <= width else text[: width - 1] + "…")
