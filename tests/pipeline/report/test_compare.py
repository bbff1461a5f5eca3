"""Laws of comparing two runs: only what differs is told, and the direction of better is known."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.report.commands import compare as command
from pipeline.report.compare import Measure, as_html, as_table, compare, leaves
from tests.pipeline.report import pretend


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that differ in the learning rate, data and results of SFT; the second has no exam, and another seed."""
    a, b = pretend.make_run(tmp_path, "first"), pretend.make_run(tmp_path, "second")
    changed = b / "chat-999952db6bec"
    (b / f"chat-{pretend.PRINTS['chat']}").rename(changed)
    (b / "chat").unlink()
    (b / "chat").symlink_to(changed.name)
    change(b / "chat" / "job.json", config={**pretend.SETTINGS["chat"], "epochs": 2, "rule": "[red]x.py:f[/red]"})
    change(b / "chat" / "result.json", metrics={"validation_loss": 0.398, "mask_share": 0.43, "accuracy": 0.5})
    for file in (b / "exam").rglob("*.json"):
        file.unlink()
    (b / "exam").unlink()
    recipe = (b / "recipe.yaml").read_text()
    (b / "recipe.yaml").write_text(recipe[: recipe.index("  exam")].replace("seed: 7", "seed: 8").replace("tiny-family", "other"))
    return a, b


def change(path: Path, **values: Any) -> None:
    pretend.write(path, json.loads(path.read_text()) | values)


def test_a_run_compared_with_itself_has_no_difference(runs: tuple[Path, Path]) -> None:
    found = compare(runs[0], runs[0])
    assert all(stage.same and not stage.settings and not stage.data for stage in found.stages)
    assert found.overall == []


def test_only_what_differs_is_told(runs: tuple[Path, Path]) -> None:
    found = compare(*runs)
    assert [(change.name, change.a, change.b) for change in found.overall] == [("seed", 7, 8)]
    assert [stage.name for stage in found.stages if not stage.same] == ["chat", "exam"]
    chat, exam = (next(stage for stage in found.stages if stage.name == name) for name in ("chat", "exam"))
    assert {change.name for change in chat.settings} == {"epochs", "kind", "rule"}
    assert exam.where == "a"
    loss = next(measure for measure in chat.results if measure.name == "validation_loss")
    assert loss.difference == pytest.approx(-0.014)
    assert loss.verdict == "better"


def test_data_that_differ_are_told_with_their_content_and_size_and_a_size_alone_is_no_difference(runs: tuple[Path, Path]) -> None:
    a, b = runs
    before = [stage.data for stage in compare(a, b).stages if stage.name == "base"]
    assert before == [[]]
    stories = a / "stories.jsonl"
    stories.write_bytes(b"x" * 2048)
    for run, print_ in ((a, "0a1b2c3d4e5f"), (b, "ffffffffffff")):
        job = json.loads((run / "base" / "job.json").read_text())
        job["inputs"]["data.0.stage"]["fingerprint"] = print_
        change(run / "base" / "job.json", inputs=job["inputs"], **({"files": {"data.0": [str(stories)]}} if run == a else {}))
    [base] = [stage for stage in compare(a, b).stages if stage.name == "base"]
    [told] = base.data
    assert told.name == "data.0"
    assert told.a == "world / stories.jsonl 0a1b2c3d4e5f, 2 KiB"
    assert told.b == "world / stories.jsonl ffffffffffff"
    change(b / "base" / "job.json", inputs=json.loads((a / "base" / "job.json").read_text())["inputs"])
    assert [stage.data for stage in compare(a, b).stages if stage.name == "base"] == [[]]


@pytest.mark.parametrize(
    ("measure", "verdict"),
    [
        (Measure("accuracy", 0.5, 0.6, "up"), "better"),
        (Measure("accuracy", 0.6, 0.5, "up"), "worse"),
        (Measure("loss", 1.0, 2.0, "down"), "worse"),
        (Measure("kl", 1.0, 2.0, ""), ""),
        (Measure("loss", 1.0, 1.0, "down"), ""),
        (Measure("loss", None, 1.0, "down"), ""),
    ],
)
def test_a_verdict_follows_the_direction_that_is_better(measure: Measure, verdict: str) -> None:
    assert measure.verdict == verdict


def test_nested_settings_are_compared_by_dotted_path() -> None:
    assert dict(leaves({"a": {"b": [1, {"c": 2}]}, "d": [], "e": None})) == {"a.b.0": 1, "a.b.1.c": 2, "d": [], "e": None}


def test_the_terminal_shows_markup_and_does_not_obey_it(runs: tuple[Path, Path]) -> None:
    out = io.StringIO()
    Console(file=out, width=160, color_system=None).print(as_table(compare(*runs)))
    assert "[red]x.py:f[/red]" in out.getvalue()
    assert "only in first" in out.getvalue()


def test_the_page_escapes_settings_and_refers_to_nothing_outside(runs: tuple[Path, Path]) -> None:
    change(runs[1] / "chat" / "job.json", config={"epochs": "<script>alert(1)</script>"})
    page = as_html(compare(*runs))
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 2
    assert 'src="' not in page


def test_the_command_speaks_to_people_programs_and_browsers(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, runs)
    assert command([a, b]) == 0
    assert "epochs" in capsys.readouterr().out
    assert command([a, b, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stages"][3]["results"][0]["verdict"] == "better"
    assert command([a, b, "--html", str(tmp_path / "c.html")]) == 0
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
