"""The whole look, with small tokenizers: what the report says is what the stages do."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from data.chat import render_all
from data.config import Source
from data.errors import DataError
from data.formats import Chat
from data.inspection import looking
from data.inspection.__main__ import main
from data.inspection.looking import inspect
from data.inspection.report import Group, Report, Task
from data.inspection.views import shown
from tests.data import chats
from tests.data.test_verdicts import turns

TEXT = {"text": "One small document."}
CHAT = {"messages": turns("Hello there", "Hi, how can I help?")}
PAIR = {"prompt": "Hello", "chosen": "Hi there", "rejected": "Go away"}
PROMPT = {"prompt": "Hello?"}


def numbered(count: int, row: Any = None) -> list[dict[str, Any]]:
    return [{"messages": turns(f"Question {number}?", f"Answer {number}.")} for number in range(count)]


def group(folder: Path, field: str, wants: str | None, *rows: Any, **source: Any) -> Group:
    file = folder / f"{field}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Group(field=field, wants=wants, sources=(Source(path=file.name, **source),), files=((file,),))  # type: ignore[arg-type]


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The small tokenizer that inspections will find, to be changed by a test."""
    made = deepcopy(chats.tokenizer("turns"))
    monkeypatch.setattr(looking, "load_tokenizer", lambda where: made)
    return made


def look(*groups: Group, **task: Any) -> Report:
    return inspect(Task(stage="s", groups=groups, **{"tokenizer": "t", "tokenizer_name": "t", "context": 64, **task}))


def names(report: Report) -> dict[str, str]:
    return {judgement.name: judgement.level for judgement in report.judgements}


def test_a_clean_chat_shows_its_answer_and_end_as_learned_and_special_tokens_as_special(tmp_path: Path, tokenizer: Any):
    report = look(group(tmp_path, "data", "chat", CHAT))
    runs = report.samples[0].said[0].runs
    assert [(run.text, run.learned, run.special) for run in runs] == [
        ("<|user|>", False, True),
        ("Hello there", False, False),
        ("<|end|><|assistant|>", False, True),
        ("Hi, how can I help?", True, False),
        ("<|end|>", True, True),
    ]
    assert report.judgements == ()
    assert (report.tokenizer, report.context) == ("t", 64)


def test_figures_are_those_of_the_rendering_that_the_stage_trains_on(tmp_path: Path, tokenizer: Any):
    rows = numbered(20)
    part = look(group(tmp_path, "data", "chat", *rows)).parts[0]
    rendered = render_all(tokenizer, [Chat(row["messages"]) for row in rows]).tokens
    lengths = [len(tokens.ids) for tokens in rendered]
    assert (part.records, part.lengths.count, part.lengths.total) == (20, 20, sum(lengths))
    assert part.learned == sum(sum(tokens.learn) for tokens in rendered) / sum(lengths)
    assert part.packing is not None
    assert part.packing.capacity == 64


@pytest.mark.parametrize("name", chats.SHAPES)
def test_the_runs_of_a_sample_are_the_decoded_text_of_any_template(name: str):
    tokenizer = chats.tokenizer(name)
    for tokens in render_all(tokenizer, [Chat(turns("Hello there", "Hi, how can I help?", "more", "yes yes"))]).tokens:
        said = shown(tokenizer, tokens)
        assert "".join(run.text for run in said.runs) == tokenizer.decode(tokens.ids, clean_up_tokenization_spaces=False)


def test_text_pairs_and_prompts_have_views_of_their_own(tmp_path: Path, tokenizer: Any):
    text = look(group(tmp_path, "data", "text", TEXT))
    assert [run.text for run in text.samples[0].said[0].runs] == [chats.EOS, "One small document.", chats.EOS]
    assert [run.learned for run in text.samples[0].said[0].runs] == [False, True, True]
    pairs = look(group(tmp_path, "pairs", "preference", PAIR))
    assert [said.label for said in pairs.samples[0].said] == ["chosen", "rejected"]
    assert all(said.runs[-1].text == "<|end|>" and said.runs[-1].learned for said in pairs.samples[0].said)
    assert pairs.parts[0].shared is not None
    assert 0 < pairs.parts[0].shared < 1
    prompts = look(group(tmp_path, "prompts", "prompt", PROMPT))
    assert prompts.parts[0].learned is None
    assert prompts.samples[0].said[0].runs[-1].text.endswith("<|assistant|>")
    assert (text.judgements, prompts.judgements) == ((), ())


def test_pad_that_also_ends_answers_is_an_error_for_chats_and_a_warning_for_text(tmp_path: Path, tokenizer: Any):
    tokenizer.pad_token = "<|end|>"
    assert names(look(group(tmp_path, "data", "chat", CHAT))) == {"pad-is-end": "error"}
    tokenizer.pad_token = tokenizer.eos_token
    assert names(look(group(tmp_path, "data", "text", TEXT))) == {"pad-is-end": "warning"}


def test_a_template_that_drops_the_system_prompt_is_an_error_for_chats_and_for_prompts(tmp_path: Path, tokenizer: Any):
    tokenizer.chat_template = (
        "{%- for message in messages if message.role != 'system' -%}<|{{ message.role }}|>{{ message.content }}<|end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
    )
    system = [{"role": "system", "content": "Be kind."}]
    chat = look(group(tmp_path, "data", "chat", {"messages": system + CHAT["messages"]}, CHAT))
    assert names(chat) == {"system-lost": "error", "refused": "error"}
    assert chat.parts[0].lengths.count == 1, "the other chat is shown nevertheless"
    prompt = look(group(tmp_path, "prompts", "prompt", {"prompt": [*system, *turns("Hello")]}))
    assert names(prompt) == {"system-lost": "error"}
    pairs = look(group(tmp_path, "pairs", "preference", {**PAIR, "prompt": [*system, *turns("Hello")]}, PAIR))
    assert names(pairs)["system-lost"] == "error"
    assert pairs.parts[0].lengths.count == 2


def test_without_a_template_or_an_end_token_words_are_shown_and_the_reason_is_an_error(tmp_path: Path, tokenizer: Any):
    tokenizer.chat_template = None
    report = look(group(tmp_path, "data", "chat", CHAT))
    assert names(report) == {"no-template": "error"}
    assert [run.text for run in report.samples[0].said[0].runs] == ["user: ", "Hello there", "\nassistant: ", "Hi, how can I help?"]
    tokenizer.eos_token = None
    assert names(look(group(tmp_path, "data", "text", TEXT))) == {"no-end-token": "error"}


def test_a_template_whose_prompt_is_no_prefix_of_its_chats_is_an_error(tmp_path: Path, tokenizer: Any):
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = tokenizer.bos_token * 2 + tokenizer.chat_template
    assert names(look(group(tmp_path, "data", "chat", CHAT))) == {"template": "error", "double-bos": "error"}


def test_without_a_tokenizer_lengths_are_characters_and_cheap_verdicts_remain(tmp_path: Path):
    same = {"prompt": "Q", "chosen": "A", "rejected": "A"}
    groups = [group(tmp_path, "pairs", "preference", same), group(tmp_path, "text", "text", TEXT), group(tmp_path, "any", None, CHAT)]
    report = look(*groups, tokenizer=None, notes=("there is none",))
    assert report.tokenizer is None
    assert report.notes[0] == "there is none"
    assert [part.lengths.unit for part in report.parts] == ["characters"] * 3
    assert names(report) == {"identical-pairs": "error"}
    assert [said.label for said in report.samples[0].said] == ["chosen", "rejected"]


def test_a_share_is_held_out_as_the_stage_does_it_and_leaks_between_given_parts_are_told(tmp_path: Path, tokenizer: Any):
    split = look(group(tmp_path, "data", "chat", *numbered(50)), held_out=0.2)
    assert [part.name for part in split.parts] == ["data", "validation"]
    assert sum(part.records for part in split.parts) == 50
    assert names(split) == {}
    held = [CHAT, {"messages": turns("Question 3?", "Another answer.")}, {"messages": turns("Never asked?", "No.")}]
    leaking = look(group(tmp_path, "data", "chat", *numbered(9), CHAT), group(tmp_path, "validation", "chat", *held))
    assert [(judgement.name, judgement.part) for judgement in leaking.judgements] == [("leak", "validation"), ("prompt-leak", "validation")]
    assert "1 of 3 held-out records" in leaking.judgements[0].text
    assert "2 of 3" in leaking.judgements[1].text


def test_copies_and_contradictions_are_told(tmp_path: Path, tokenizer: Any):
    other = {"prompt": "Hello", "chosen": "Go away", "rejected": "Hi there"}
    assert names(look(group(tmp_path, "data", "preference", PAIR, other))) == {"contradictions": "warning"}
    assert names(look(group(tmp_path, "data", "chat", CHAT, CHAT))) == {"duplicates": "warning"}


def test_chats_that_lose_turns_or_do_not_fit_are_told(tmp_path: Path, tokenizer: Any):
    long = {"messages": turns("Hello", "Hi", "more " * 100, "yes")}
    assert names(look(group(tmp_path, "data", "chat", long))) == {"truncated": "warning"}
    assert names(look(group(tmp_path, "data", "chat", {"messages": turns("more " * 100, "yes")}))) == {"left-out": "error"}
    assert names(look(group(tmp_path, "prompts", "prompt", PROMPT), answer_room=63)) == {"truncated": "warning"}


def test_no_more_rows_are_looked_at_than_asked_for_and_sources_stand_by_their_share(tmp_path: Path, tokenizer: Any):
    report = look(group(tmp_path, "data", "chat", *numbered(9), weight=3.0), rows=5, samples=2)
    assert report.parts[0].records == 5
    assert "data.jsonl: looked at the first 5 records" in report.notes
    assert [sample.number for sample in report.samples] == [1, 3]
    assert (report.parts[0].origins[0].share, report.parts[0].origins[0].weight) == (1.0, 3.0)
    two = Group(
        field="data",
        wants="chat",
        sources=(Source(path="few.jsonl"), Source(path="many.jsonl", weight=2)),
        files=tuple(group(tmp_path, name, "chat", *numbered(4)).files[0] for name in ("few", "many")),
    )
    part = look(two).parts[0]
    assert [origin.path for origin in part.origins] == ["many.jsonl", "few.jsonl"]
    assert part.packing is not None
    assert part.packing.rows >= 12 * 10 // 64


def test_a_folder_without_a_tokenizer_is_told_and_the_words_are_shown(tmp_path: Path):
    report = look(group(tmp_path, "data", "chat", CHAT), tokenizer=str(tmp_path))
    assert "holds no tokenizer that loads" in " ".join(report.notes)
    assert report.parts[0].lengths.unit == "characters"
    with pytest.raises(DataError, match="the file is empty"):
        look(group(tmp_path, "empty", "chat"))


def test_the_program_prints_a_report_and_says_in_one_sentence_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chats.tokenizer("turns").save_pretrained(tmp_path / "model")
    file = tmp_path / "task.json"
    file.write_text(Task(stage="s", groups=(group(tmp_path, "data", "chat", CHAT),), tokenizer=str(tmp_path / "model")).model_dump_json())
    assert main([str(file)]) == 0
    report = Report.model_validate_json(capsys.readouterr().out)
    assert report.parts[0].learned
    assert report.parts[0].packing is None
    (tmp_path / "data.jsonl").write_text("{broken\n")
    assert main([str(file)]) == 2
    assert "data.jsonl" in capsys.readouterr().err
    assert main([]) == 2


def test_a_stage_that_cleans_shows_what_each_rule_removes(tmp_path: Path) -> None:
    from data.cleaning.config import Cleaning
    from tests.data.cleaning.test_rules import prose

    exam = "A train leaves the station at nine and travels sixty miles an hour towards the bridge."
    web, exams = tmp_path / "web.jsonl", tmp_path / "exams.jsonl"
    texts = [prose(), prose(), "too short", prose(seed=2) + " " + exam, prose(seed=3)]
    web.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    exams.write_text(json.dumps({"text": exam}) + "\n")
    groups = tuple(
        Group(field=name, wants="text", sources=(Source(path=f"{name}.jsonl"),), files=((file,),))
        for name, file in (("data", web), ("against", exams))
    )
    report = inspect(Task(stage="clean", groups=groups, cleaning=Cleaning()))
    found = report.parts[0].cleaned
    assert found is not None
    assert {gone.rule: gone.documents for gone in found.gone} == {"words_min": 1, "exam": 1, "exact_copies": 1}
    assert found.done[0].startswith("5 documents read, 2 kept")
    assert report.parts[1].cleaned is None
