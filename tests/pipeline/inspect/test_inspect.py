"""`pipeline inspect` as a user sees it: what it finds in a recipe, and how it shows what the inspection says."""

import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from data.inspection.looking import inspect
from data.inspection.report import Report, Run, Said, Task
from pipeline.errors import PipelineError, RecipeError
from pipeline.inspect import command
from pipeline.inspect.page import page
from pipeline.inspect.task import make_task
from pipeline.inspect.terminal import print_report
from pipeline.inspect.wording import harmless, headline, judged, legend
from pipeline.plan import make_plan
from pipeline.recipe import load
from pipeline.store import Run as RunFolder
from stages import contract
from tests.data import chats
from tests.data.test_verdicts import turns
from tests.pipeline.conftest import Workshop

RECIPE = """\
name: talk
stages:
  words: {kind: tokenizer, existing: ./model}
  base: {kind: pretrain, tokenizer: words, model: {context: 96}, data: [{path: text.jsonl}], validation: [{path: text.jsonl}], tokens: 1000}
  chat: {kind: sft, model: ./model, data: [{path: chats.jsonl}], held_out: 0.3, max_tokens: 48}
  judge: {kind: reward, model: base, data: [{path: pairs.jsonl}]}
  policy:
    kind: ppo
    model: chat
    rewards: [{rule: number}]
    prompts: [{path: chats.jsonl}]
    steps: 20
    sampling: {max_new_tokens: 16}
  exam: {kind: evaluate, models: [hub:some/model@v1], tasks: [{name: t, prompts: [{stage: facts, path: exam.jsonl}, {path: chats.jsonl}], rule: number}]}
"""
FACTS = "stages:\n  facts: {kind: world, people: 4}\n"
WORLD = "name: later\nstages:\n  facts: {kind: world, people: 4}\n  chat: {kind: sft, model: ./model, data: [{stage: facts, path: chats.jsonl}]}\n"
EVIL = '<script>alert("1")</script>\x1b[31m'
Output = pytest.CaptureFixture[str]


@pytest.fixture
def place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe, its data and a model's folder; inspections run in this process."""
    root = workshop.root
    chats.tokenizer("turns").save_pretrained(root / "model")
    (root / "model" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}))
    rows = [{"messages": turns(f"Question {number}?", f"Answer {number}.")} for number in range(12)]
    (root / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "text.jsonl").write_text('{"text": "One."}\n{"text": "Two words."}\n')
    (root / "pairs.jsonl").write_text("".join(json.dumps({"prompt": f"Q {n}", "chosen": "A", "rejected": "B"}) + "\n" for n in range(9)))
    workshop.write(RECIPE.replace("stages:\n", FACTS), "talk.yaml")
    workshop.write(WORLD, "later.yaml")
    monkeypatch.setattr(command, "examined", lambda task: inspect(Task.model_validate_json(task)))
    return root


def task_of(root: Path, stage: str, *overrides: str) -> Task:
    recipe = load(root / "talk.yaml", overrides)
    return make_task(make_plan(recipe, RunFolder(root / "runs" / recipe.name)), stage, samples=3, rows=100)


def test_what_a_stage_reads_is_found_by_annotations_and_by_shared_names(place: Path):
    chat = task_of(place, "chat", "stages.chat.learn=last")
    assert [(group.field, group.wants) for group in chat.groups] == [("data", "chat")]
    assert (chat.held_out, chat.context, chat.learn) == (0.3, 48, "last"), "the smaller of `max_tokens` and the model's context"
    assert (chat.tokenizer, chat.tokenizer_name) == (str((place / "model").resolve()), "./model")
    base = task_of(place, "base")
    assert [group.field for group in base.groups] == ["data", "validation"]
    assert (base.held_out, base.context) == (None, 96)
    policy = task_of(place, "policy")
    assert (policy.groups[0].wants, policy.answer_room, policy.context) == ("prompt", 16, 64)


def test_a_model_that_is_not_trained_yet_lends_the_tokenizer_that_it_will_have(place: Path):
    policy = task_of(place, "policy")
    assert policy.tokenizer_name == "./model", "chat is not done, and starts from ./model"


def test_a_tokenizer_that_is_not_made_yet_is_told_with_the_command_that_makes_it(place: Path):
    judge = task_of(place, "judge")
    assert judge.tokenizer is None
    assert judge.context == 96, "the context of the model that will be trained"
    assert any("--until words" in note for note in judge.notes)


def test_a_model_on_the_hub_is_named_by_the_commit_that_the_run_settled_on(place: Path):
    assert task_of(place, "exam").tokenizer == "hub:some/model@v1"
    folder = place / "runs" / "talk"
    folder.mkdir(parents=True)
    (folder / "hub.json").write_text(json.dumps({"model some/model@v1": "c0ffee"}))
    exam = task_of(place, "exam")
    assert exam.tokenizer == "hub:some/model@c0ffee"
    assert [group.field for group in exam.groups] == ["tasks.0.prompts"]
    assert any("'facts' has not made exam.jsonl yet" in note for note in exam.notes), "the other source is shown nevertheless"


def test_wrong_use_is_told_in_one_sentence(workshop: Workshop, place: Path, capsys: Output):
    for words, sentence in (
        (("talk.yaml", "chta"), "did you mean 'chat'?"),
        (("talk.yaml", "facts"), "reads no data"),
        (("talk.yaml", "words"), "reads no data"),
        (("later.yaml", "chat"), "pipeline run later.yaml --until facts"),
        (("talk.yaml", "chat", "--samples", "-1"), "--samples wants 0 or more"),
        (("talk.yaml", "chat", "--htlm", "x"), "did you mean '--html'?"),
    ):
        assert workshop.call("inspect", *words) == contract.WRONG_INPUT, words
        assert sentence in capsys.readouterr().err


def test_a_source_that_is_not_there_is_told_with_its_line(workshop: Workshop, place: Path, capsys: Output):
    workshop.write(WORLD.replace("{stage: facts, path: chats.jsonl}", "{path: chat.jsonl}"), "later.yaml")
    assert workshop.call("inspect", "later.yaml", "chat") == contract.WRONG_INPUT
    err = capsys.readouterr().err
    assert "later.yaml:4" in err
    assert "chats.jsonl" in err


def test_the_command_shows_samples_figures_and_verdicts(workshop: Workshop, place: Path, capsys: Output):
    assert workshop.call("inspect", "talk.yaml", "chat", "--samples", "1") == contract.DONE
    out = capsys.readouterr().out
    assert "chat: chats, as the tokenizer of './model' writes them, at most 48 tokens long" in out
    assert "<|user|>Question 0?<|end|><|assistant|>⟦Answer 0.<|end|>⟧" in out
    assert "learned" in out
    assert "validation" in out
    assert out.endswith("nothing looks wrong\n")
    assert all(line == line.rstrip() for line in out.splitlines())


def test_data_that_cannot_be_used_end_in_2_and_the_same_report_is_printed_as_json(workshop: Workshop, place: Path, capsys: Output):
    (place / "pairs.jsonl").write_text(
        '{"prompt": "Q", "chosen": "A", "rejected": "A"}\n{"prompt": "R", "chosen": "B", "rejected": "B"}\n' * 4
    )
    assert workshop.call("inspect", "talk.yaml", "judge", "--json") == contract.WRONG_INPUT
    report = Report.model_validate_json(capsys.readouterr().out)
    assert ("identical-pairs", "error") in [(judgement.name, judgement.level) for judgement in report.judgements]
    assert workshop.call("inspect", "talk.yaml", "judge") == contract.WRONG_INPUT
    assert "Without a tokenizer it is not known what is learned." in capsys.readouterr().out


def test_the_page_holds_everything_and_nothing_from_data_becomes_markup(workshop: Workshop, place: Path, capsys: Output):
    row = {"messages": turns(EVIL, f"{EVIL} said.")}
    name = "a<b>&.jsonl"
    (place / name).write_text(
        "".join(json.dumps({"messages": turns(f"{EVIL}{n}", row["messages"][1]["content"])}) + "\n" for n in range(9))
    )
    (place / "model" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}))
    workshop.write(RECIPE.replace("stages:\n", FACTS).replace("data: [{path: chats.jsonl}]", f"data: [{{path: '{name}'}}]"), "talk.yaml")
    assert workshop.call("inspect", "talk.yaml", "chat", "stages.chat.max_tokens=512", "--html", "out/page.html") == contract.DONE
    assert capsys.readouterr().out == "out/page.html\n"
    text = (place / "out" / "page.html").read_text(encoding="utf-8")
    seen = tags(text)
    assert "script" not in seen
    assert "b" not in seen, "no name of a file became markup (and no verdict is on this page)"
    assert {"pre", "svg", "table"} <= seen
    assert "&lt;script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")


def tags(text: str) -> set[str]:
    found: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.add(tag)

    Reader().feed(text)
    return found


def test_verdicts_and_notes_stand_on_the_page(report: Report):
    text = page(report, "talk")
    assert '<li class="warning"><b>warning</b> <span class="quiet">data</span> copies</li>' in text
    assert "1 error, 1 warning" in text
    assert "a note" in text
    assert "… 7 more" in text
    assert 'is shown like <span class="learned">this</span>; all else is only read' in text


def test_colours_tell_what_is_learned_where_there_are_colours(report: Report, monkeypatch: pytest.MonkeyPatch):
    # Whoever runs the tests may have asked for no colours at all.
    for name in ("NO_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    coloured = io.StringIO()
    print_report(report, Console(file=coloured, force_terminal=True, color_system="truecolor", width=100))
    assert "\x1b[1;32mlearned" in coloured.getvalue()
    assert "⟦" not in coloured.getvalue()
    plain = io.StringIO()
    print_report(report, Console(file=plain))
    assert "⟦learned⟧" in plain.getvalue()
    assert "\x1b" not in plain.getvalue()


@pytest.fixture
def report(place: Path) -> Report:
    """A report in which everything occurs."""
    made = inspect(task_of(place, "chat"))
    said = Said(runs=(Run(text="<s>", special=True), Run(text="learned", learned=True)), tokens=9, left_out=7)
    judgements = [
        {"level": "error", "name": "e", "part": "", "text": "bad"},
        {"level": "warning", "name": "w", "part": "data", "text": "copies"},
    ]
    changed = made.model_dump() | {"judgements": judgements, "notes": ("a note",)}
    origins = [{"path": f"file-{number}", "records": 1, "weight": 2.0, "share": 0.1} for number in range(7)]
    changed["parts"][0]["origins"] = origins
    changed["samples"][0]["said"] = [said.model_dump(), said.model_dump() | {"label": "rejected"}]
    return Report.model_validate(changed)


def test_data_cannot_move_the_cursor_nor_turn_the_text_around():
    assert harmless("a\nb\t\x1b[2J\x7f\u202eevil\x9b") == "a\nb␉␛[2J␡�evil�"
    assert harmless("Grüße, 日本語 🎉") == "Grüße, 日本語 🎉"


def test_the_words_fit_what_is_shown(place: Path):
    prompts = inspect(task_of(place, "policy"))
    assert legend(prompts, "this").startswith("Nothing of a prompt is learned")
    pairs = inspect(task_of(place, "judge").model_copy(update={"tokenizer": str(place / "model"), "tokenizer_name": "words"}))
    assert "compared" in legend(pairs, "this")
    assert headline(pairs) == "judge: preference pairs, as the tokenizer of 'words' writes them, at most 96 tokens long"
    assert judged(pairs) == "nothing looks wrong"


def test_the_inspection_is_a_process_that_needs_no_torch(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text("raise SystemExit('the wrong data')")
    report = command.examined(task_of(place, "chat").model_dump_json())
    assert report.parts[0].learned


def test_a_process_that_fails_is_told_in_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[[str], None]):
    monkeypatch.undo()
    program("import sys; print('first', file=sys.stderr); print('no such row', file=sys.stderr); sys.exit(2)")
    with pytest.raises(RecipeError, match="no such row"):
        command.examined("{}")
    program("import sys; sys.exit(7)")
    with pytest.raises(PipelineError, match="it said nothing"):
        command.examined("{}")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another program in the place of the inspection."""

    def put(text: str) -> None:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "inspection.py").write_text(text)
        monkeypatch.setattr(command, "HOME", tmp_path)

    return put


def test_a_check_runs_the_verdicts_that_need_no_tokenizer(workshop: Workshop, place: Path, capsys: Output):
    workshop.write(
        "name: small\nstages:\n  judge: {kind: reward, model: ./model, data: [{path: pairs.jsonl}], batch_pairs: 1, epochs: 4}\n",
        "small.yaml",
    )
    assert workshop.call("check", "small.yaml") == contract.DONE
    assert capsys.readouterr().out.endswith("small.yaml: 1 stages, nothing wrong, 1 warning\n"), "of held-out pairs that are few"
    good, same = '{"prompt": "Q", "chosen": "A", "rejected": "B"}\n', '{"prompt": "Q", "chosen": "A", "rejected": "A"}\n'
    (place / "pairs.jsonl").write_text(good * 2 + good.replace("Q", "R") + same)
    assert workshop.call("check", "small.yaml") == contract.DONE
    out = capsys.readouterr().out
    assert "warning: stages.judge.data.0: pairs.jsonl: 1 of 4 pairs have identical answers and teach nothing\n" in out
    assert out.endswith("small.yaml: 1 stages, nothing wrong, 2 warnings\n")
    (place / "pairs.jsonl").write_text(same * 3)
    assert workshop.call("check", "small.yaml") == contract.WRONG_INPUT
    assert "3 of 3 pairs have identical answers" in capsys.readouterr().err
