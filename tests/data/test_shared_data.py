"""Real files, public and not ours, load in their formats without a mapping; these are their counts."""

from collections import Counter
from pathlib import Path

import pytest

from data.chat import render_all
from data.checking import check_source
from data.config import Source
from data.formats import Chat, Preference, Prompt, Record, Text
from data.records import read_records
from data.sources import resolve
from data.tokens import encode_texts
from tests.data.chats import tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public data files in ../shared/data beside the repository")

COUNTS: list[tuple[str, type[Record], int]] = [
    ("pretrain/tinyshakespeare.txt", Text, 265),
    ("pretrain/wikitext2-valid.txt", Text, 226),
    ("pretrain/c4_demo.jsonl", Text, 300),
    ("sft/alpaca_en_demo.json", Chat, 999),
    ("sft/alpaca_zh_demo.json", Chat, 1_000),
    ("sft/identity.json", Chat, 91),
    ("sft/glaive_toolcall_en_demo.json", Chat, 300),
    ("sft/gsm8k_train.jsonl", Chat, 7_473),
    ("sft/gsm8k_test.jsonl", Prompt, 1_319),
    ("preference/dpo_en_demo.json", Preference, 300),
    ("preference/hh_harmless_base_test.jsonl.gz", Preference, 2_312),
    ("preference/hh_harmless_base_test.jsonl.gz", Prompt, 2_312),
]


def load(path: str, want: type[Record]) -> list[Record]:
    source = Source(path=path)
    return read_records([source], [resolve(source, SHARED)], want).records  # type: ignore[type-var]


@pytest.mark.parametrize(("path", "want", "count"), COUNTS)
def test_every_row_of_a_real_file_is_read(path: str, want: type[Record], count: int) -> None:
    records = load(path, want)
    assert len(records) == count
    assert {type(record) for record in records} == {want}
    assert not any(finding.problem for finding in check_source(Source(path=path), resolve(Source(path=path), SHARED), want)[0])


def test_all_files_there_are_counted_here() -> None:
    assert {str(file.relative_to(SHARED)) for file in SHARED.rglob("*.*") if file.suffix != ".md"} == {path for path, _, _ in COUNTS}


def test_no_word_of_plain_text_is_lost() -> None:
    for name in ("tinyshakespeare.txt", "wikitext2-valid.txt"):
        words = (SHARED / "pretrain" / name).read_text(encoding="utf-8").split()
        assert [word for record in load(f"pretrain/{name}", Text) for word in record.text.split()] == words  # type: ignore[union-attr]


def test_tool_calls_are_calls_and_their_results_are_tools() -> None:
    chats = [record for record in load("sft/glaive_toolcall_en_demo.json", Chat) if isinstance(record, Chat)]
    roles = Counter("call" if "tool_calls" in message else message["role"] for chat in chats for message in chat.messages)
    assert roles == {"user": 746, "assistant": 746, "call": 211, "tool": 211}
    assert sum(chat.tools is None for chat in chats) == 109


def test_transcripts_share_their_prompt_and_part_at_the_answer() -> None:
    pairs = [record for record in load("preference/hh_harmless_base_test.jsonl.gz", Preference) if isinstance(record, Preference)]
    assert all([m["role"] for m in pair.prompt] == ["user", "assistant"] * (len(pair.prompt) // 2) + ["user"] for pair in pairs)
    assert all([m["role"] for m in side] == ["assistant"] for pair in pairs for side in (pair.chosen, pair.rejected))
    assert sum(pair.chosen == pair.rejected for pair in pairs) == 0


def test_real_chats_are_rendered_with_something_learned_in_each() -> None:
    for path in ("sft/alpaca_en_demo.json", "sft/alpaca_zh_demo.json", "sft/identity.json", "sft/glaive_toolcall_en_demo.json"):
        chats = [record for record in load(path, Chat) if isinstance(record, Chat)][:200]
        result = render_all(tokenizer("turns"), chats)
        assert len(result.tokens) == len(chats)
        assert all(tokens.learn[-1] for tokens in result.tokens)


def test_documents_decode_to_themselves_and_end_with_eos() -> None:
    documents = [record.text for record in load("pretrain/c4_demo.jsonl", Text) if isinstance(record, Text)]
    fast = tokenizer("turns")
    encoded = encode_texts(fast, documents[:50])
    assert [fast.decode(ids[1:-1].tolist(), clean_up_tokenization_spaces=False) for ids in encoded] == documents[:50]
    assert {int(ids[place]) for ids in encoded for place in (0, -1)} == {fast.eos_token_id}
