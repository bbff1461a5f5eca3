"""Rows of every format become the record that they are, and what does not fit is told where and why."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.columns import ALIASES, MisfitError, detect
from data.formats import READERS, Chat, Preference, Prompt, Record, Text, normalise, transcript
from tests.data.chats import CALL, TOOLS, turns

ASKED, SAID = turns("Q")[0], turns("Q", "A")[1]
CHAT = Chat([ASKED, SAID])
PAIR = Preference([ASKED], [SAID], [{"role": "assistant", "content": "B"}])

ROWS: dict[str, tuple[dict[str, Any] | str, str, Record]] = {
    "a line of text": ("Once upon a time", "text", Text("Once upon a time")),
    "text": ({"text": "Once", "nats": 3}, "text", Text("Once", 3.0)),
    "content": ({"content": "Once", "url": "x"}, "text", Text("Once")),
    "alpaca": ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", CHAT),
    "alpaca with input": ({"instruction": "Q", "input": "more", "output": "A"}, "alpaca", Chat(turns("Q\nmore", "A"))),
    "alpaca with history": (
        {"instruction": "Q", "output": "A", "system": "S", "history": [["q", "a"]]},
        "alpaca",
        Chat(turns("q", "a", "Q", "A", system="S")),
    ),
    "messages": ({"messages": turns("Q", "A")}, "messages", CHAT),
    "messages with tools as text": (
        {
            "messages": turns("Q", "A"),
            "tools": '[{"name": "weather", "description": "Today\'s weather", "parameters": {"type": "object"}}]',
        },
        "messages",
        Chat(turns("Q", "A"), TOOLS),
    ),
    "message parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, SAID]}, "messages", CHAT),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "tools": "[]"}, "sharegpt", CHAT),
    "sharegpt in another spelling": (
        {"conversation": [{"from": "User", "value": "Q"}, {"from": "ChatGPT", "value": "A"}]},
        "sharegpt",
        CHAT,
    ),
    "sharegpt with a system prompt": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
        "sharegpt",
        Chat(turns("Q", "A", system="S")),
    ),
    "a function call": (
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"from": "observation", "value": "clear"},
                {"from": "gpt", "value": "A"},
            ]
        },
        "sharegpt",
        Chat([ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "clear"}, SAID]),
    ),
    "OpenAI tool calls": (
        {
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
                },
                {"role": "tool", "content": "clear", "tool_call_id": "1"},
            ]
        },
        "messages",
        Chat(
            [
                ASKED,
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "clear", "tool_call_id": "1"},
            ]
        ),
    ),
    "an answer not to be learned": (
        {"messages": [ASKED, {**SAID, "weight": 0}, {**SAID, "reasoning": "R"}]},
        "messages",
        Chat([ASKED, {**SAID, "train": False}, {**SAID, "reasoning_content": "R"}]),
    ),
    "prompt and completion": ({"prompt": "Q", "completion": "A"}, "prompt-completion", CHAT),
    "prompt and completion as turns": ({"prompt": [ASKED], "completion": [SAID]}, "prompt-completion", CHAT),
    "question and answer": ({"question": "Q", "answer": "A"}, "question-answer", CHAT),
    "pair of texts": (
        {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 2, "group": "g"},
        "preference",
        Preference([ASKED], [SAID], PAIR.rejected, 2.0, {"group": "g"}),
    ),
    "pair of turns": ({"prompt": [ASKED], "chosen": [SAID], "rejected": PAIR.rejected}, "preference", PAIR),
    "pair that repeats its prompt": ({"prompt": "Q", "chosen": [ASKED, SAID], "rejected": [ASKED, *PAIR.rejected]}, "preference", PAIR),
    "pair with an implicit prompt": ({"chosen": [ASKED, SAID], "rejected": [ASKED, *PAIR.rejected]}, "preference", PAIR),
    "pair of ShareGPT turns": (
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        "preference",
        PAIR,
    ),
    "pair of transcripts": ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, "preference", PAIR),
    "identical pair": (
        {"prompt": "Q", "chosen": [ASKED, SAID], "rejected": [ASKED, SAID]},
        "preference",
        Preference([ASKED], [SAID], [SAID]),
    ),
    "prompt": ({"prompt": "Q", "reference": {"value": 4}, "group": "g"}, "prompt", Prompt([ASKED], {"value": 4}, {"group": "g"})),
    "prompt as a transcript": ({"prompt": "\n\nHuman: Q\n\nAssistant:"}, "prompt", Prompt([ASKED])),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_detected_and_becomes_its_record(name: str) -> None:
    row, format, record = ROWS[name]
    assert detect(row)[0] == format
    assert normalise(row, "auto", {}, None) == [record]
    assert normalise(row, format, {}, type(record)) == [record]


def test_a_ranked_list_becomes_every_better_answer_against_every_worse_one() -> None:
    row = {"prompt": "Q", "responses": ["worst", "best", "middle"], "scores": [1, 5, 3]}
    assert detect(row)[0] == "ranked"
    pairs = [
        (p.chosen[0]["content"], p.rejected[0]["content"], p.margin)
        for p in normalise(row, "ranked", {}, Preference)
        if isinstance(p, Preference)
    ]
    assert pairs == [("best", "worst", 4.0), ("best", "middle", 2.0), ("middle", "worst", 2.0)]


def test_without_scores_the_first_of_a_ranked_list_is_the_best_and_ranks_count_from_the_best() -> None:
    first = normalise({"prompt": "Q", "responses": ["A", "B"]}, "auto", {}, None)
    assert first == [PAIR]
    assert normalise({"prompt": "Q", "responses": ["B", "A"], "ranks": [2, 1]}, "auto", {}, None) == [PAIR]


@pytest.mark.parametrize(
    ("row", "want", "record"),
    [
        ({"question": "Q", "answer": "A"}, Prompt, Prompt([ASKED], "A")),
        ({"messages": turns("Q", "A", "Q2", "A2")}, Prompt, Prompt(turns("Q", "A", "Q2"), "A2")),
        ({"messages": turns("Q")}, Prompt, Prompt([ASKED])),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "group": "g"}, Prompt, Prompt([ASKED], None, {"group": "g"})),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Chat, CHAT),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Text, Text("Q\n\nA")),
        ({"messages": turns("Q", "A")}, Text, Text("Q\n\nA")),
        ({"prompt": "Q"}, Text, Text("Q")),
    ],
)
def test_a_record_becomes_another_kind_where_nothing_is_invented(row: dict[str, Any], want: type[Record], record: Record) -> None:
    assert normalise(row, "auto", {}, want) == [record]


def test_columns_map_our_names_to_theirs_through_dots() -> None:
    row = {"conversation": {"turns": turns("Q", "A")}, "meta": {"who": "S"}, "messages": "not these"}
    columns = {"messages": "conversation.turns", "system": "meta.who"}
    assert normalise(row, "messages", columns, Chat) == [Chat(turns("Q", "A", system="S"))]


def test_a_column_whose_name_holds_a_dot_is_found() -> None:
    assert normalise({"a.b": "Once"}, "text", {"text": "a.b"}, Text) == [Text("Once")]


WRONG: dict[str, tuple[Any, str, dict[str, str], type[Record], str]] = {
    "columns that nobody cut": (
        {"instruction;output": "hi;there"},
        "auto",
        {},
        Chat,
        "one column that looks like several: found column 'instruction;output'; wanted commas between columns, not ';'",
    ),
    "a misspelt column of no format": (
        {"promt": "q", "reference": "a"},
        "auto",
        {},
        Prompt,
        "no known format: found columns promt, reference ('promt' comes near: `columns: {prompt: promt}`?); wanted prompt, or the columns of a chat",
    ),
    "a column of nothing": ({"prompt": None}, "auto", {}, Prompt, "no known format: found columns prompt (null); wanted prompt, or"),
    "no known columns": ({"foo": 1}, "auto", {}, Chat, "no known format: found columns foo"),
    "a missing column": (
        {"instruction": "Q"},
        "alpaca",
        {},
        Chat,
        "no column 'output': found columns instruction; wanted output or response",
    ),
    "a misspelt column": ({"mesages": turns("Q", "A")}, "messages", {}, Chat, "'mesages' comes near"),
    "a mapped column that is not there": (
        {"conversation": {"turn": []}},
        "messages",
        {"messages": "conversation.turns"},
        Chat,
        "did you mean 'turn'",
    ),
    "text that is a number": ({"text": 5}, "text", {}, Text, "'text' is not text: found int '5'"),
    "content that is null": (
        {"messages": [{"role": "user", "content": None}]},
        "messages",
        {},
        Chat,
        "'content' is not text: found NoneType",
    ),
    "an unknown speaker": ({"messages": [{"role": "narrator", "content": "Q"}]}, "messages", {}, Chat, "unknown speaker: found 'narrator'"),
    "a turn without speaker": ({"messages": [{"content": "Q"}]}, "messages", {}, Chat, "a turn without a speaker"),
    "no list of turns": ({"messages": "Q"}, "messages", {}, Chat, "no list of turns"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages",
        {},
        Chat,
        "'image_url' where text is expected",
    ),
    "no assistant": ({"messages": turns("Q")}, "messages", {}, Chat, "no assistant turn: found only user"),
    "a chat that only the assistant speaks in": ({"messages": [SAID]}, "messages", {}, Prompt, "nothing to answer"),
    "a chat that nobody asked in": (
        {"messages": [SAID]},
        "messages",
        {},
        Chat,
        "no user turn: found only assistant; wanted a turn of the user",
    ),
    "a prompt of the system alone": (
        {"prompt": [{"role": "system", "content": "S"}]},
        "prompt",
        {},
        Prompt,
        "no user turn: found only system",
    ),
    "a function call that is no JSON": (
        {"conversations": [{"from": "function_call", "value": "weather("}]},
        "sharegpt",
        {},
        Chat,
        "a function call that is not JSON",
    ),
    "a function call without name": (
        {"conversations": [{"from": "function_call", "value": "{}"}]},
        "sharegpt",
        {},
        Chat,
        "a tool call without a name",
    ),
    "tool arguments that are no JSON": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages",
        {},
        Chat,
        "tool arguments that are not JSON",
    ),
    "tools that are no JSON": ({"messages": turns("Q", "A"), "tools": "[{"}, "messages", {}, Chat, "tools that are not JSON"),
    "tools that are no schemas": ({"messages": turns("Q", "A"), "tools": ["f"]}, "messages", {}, Chat, "tools that are not schemas"),
    "answers to two prompts": (
        {"chosen": [ASKED, SAID], "rejected": turns("other", "A")},
        "preference",
        {},
        Preference,
        "do not answer one prompt",
    ),
    "answers without a prompt": ({"chosen": "A", "rejected": "B"}, "preference", {}, Preference, "do not answer one prompt"),
    "a prompt that the answers contradict": (
        {"prompt": "other", "chosen": [ASKED, SAID], "rejected": [ASKED, SAID]},
        "preference",
        {},
        Preference,
        "prompt and answers disagree",
    ),
    "a prompt that is answered": ({"prompt": turns("Q", "A")}, "prompt", {}, Prompt, "a prompt that is answered: found 'A'"),
    "an empty prompt": ({"prompt": "\n\nAssistant:"}, "prompt", {}, Prompt, "an empty prompt: found 'Assistant:'"),
    "a margin that is no number": (
        {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "high"},
        "auto",
        {},
        Preference,
        "'margin' is not a number",
    ),
    "a history that is no pairs": (
        {"instruction": "Q", "output": "A", "history": ["q"]},
        "alpaca",
        {},
        Chat,
        "history that is not pairs: found 'q'",
    ),
    "scores that are no list": ({"prompt": "Q", "responses": ["A"], "scores": 3}, "ranked", {}, Preference, "'scores' is not a list"),
    "scores that do not match": ({"prompt": "Q", "responses": ["A", "B"], "scores": [1]}, "ranked", {}, Preference, "1 for 2 responses"),
    "text where chats are wanted": (
        {"text": "Once"},
        "auto",
        {},
        Chat,
        "makes no chat: found columns text, which make a text; wanted messages",
    ),
    "a chat where pairs are wanted": ({"messages": turns("Q", "A")}, "auto", {}, Preference, "wanted chosen and rejected"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_with_what_was_found_and_wanted(name: str) -> None:
    row, format, columns, want, message = WRONG[name]
    with pytest.raises(MisfitError) as caught:
        normalise(row, format, columns, want)
    assert message in str(caught.value)


def test_turns_of_one_speaker_in_a_row_become_one_in_a_transcript() -> None:
    text = "\n\nHuman: Q\n\nAssistant: A\n\nAssistant: B\n\nHuman: says Human: twice"
    assert transcript(text) == turns("Q", "A\n\nB", "says Human: twice")


names = st.sampled_from(sorted({alias for aliases in ALIASES.values() for alias in aliases}))
turn = st.fixed_dictionaries(
    {},
    optional={
        key: st.sampled_from(["user", "gpt", "function_call", "x", "{}", None, 3, [], {}])
        for key in ("role", "from", "content", "value", "tool_calls", "function_call")
    },
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | turn | st.sampled_from(["\n\nHuman: a", "\n\nAssistant:"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(names, values, max_size=4), st.sampled_from([None, Text, Chat, Preference, Prompt]), st.sampled_from(["auto", *READERS])
)
def test_any_row_at_all_is_a_record_of_the_wanted_kind_or_told_not_to_fit(
    row: dict[str, Any], want: type[Record] | None, format: str
) -> None:
    try:
        records = normalise(row, format, {}, want)
    except MisfitError:
        return
    assert all(isinstance(record, want or Record) for record in records)
