"""Laws of what is shown of the samples that a stage left: by prompt, from the start to the end, escaped, and whatever the file holds."""

import json
from pathlib import Path

from pipeline.report.on_the_way import PROMPTS, STEPS, threads
from pipeline.report.page import write_report
from pipeline.report.reading import read_run
from tests.pipeline.report import pretend

EVIL = "<script>alert(1)</script>"


def left(run: Path, stage: str, lines: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (run / stage / "samples.jsonl").write_text(text + '"foreign"\n{"step": 9, "ans', encoding="utf-8")


def test_prompts_keep_their_order_and_steps_are_thinned_to_the_first_the_last_and_some_between(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    lines = [{"step": step, "prompt": f"p{n}", "answer": f"{step} {n}", "reference": f"r{n}"} for step in range(0, 21) for n in range(6)]
    left(run, "base", lines)
    found = threads(read_run(run)["base"])  # type: ignore[arg-type]
    assert [(thread.prompt, thread.reference) for thread in found] == [(f"p{n}", f"r{n}") for n in range(PROMPTS)]
    assert all(len(thread.answers) == STEPS for thread in found)
    assert [(answer.step, answer.text) for answer in (found[2].answers[0], found[2].answers[-1])] == [(0, "0 2"), (20, "20 2")]
    assert not found[0].is_rewarded


def test_rewards_stand_beside_answers_and_nothing_in_them_becomes_markup(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    prompt = [{"role": "user", "content": f"Who? {EVIL}"}]
    left(run, "policy", [{"step": step, "prompt": prompt, "answer": EVIL, "reward": step / 8, "finished": False} for step in (0, 20)])
    [thread] = threads(read_run(run)["policy"])  # type: ignore[arg-type]
    assert [(answer.reward, answer.finished) for answer in thread.answers] == [(0.0, False), (2.5, False)]
    page = write_report(run).read_text()
    assert "What it said on the way" in page
    assert "Who? &lt;script&gt;" in page
    assert EVIL not in page


def test_an_answer_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    left(run, "base", [{"step": 0, "prompt": "p", "answer": "one\u2028two\x85three"}])
    [thread] = threads(read_run(run)["base"])  # type: ignore[arg-type]
    assert thread.answers[0].text == "one\u2028two\x85three"


def test_a_stage_without_samples_shows_none(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    assert threads(read_run(run)["chat"]) == []  # type: ignore[arg-type]
    assert "What it said on the way" not in write_report(run).read_text()
