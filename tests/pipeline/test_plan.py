"""The plan says what would be done, and why."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import RecipeError
from pipeline.gates import missed_gates
from pipeline.handoffs import tokenizer_problems
from pipeline.reasons import differences
from pipeline.store import StageFolder, age, now
from stages.contract import Artifact
from stages.core.files import write_json
from tests.pipeline.conftest import Workshop
from tests.pipeline.toy import Train


def finish(workshop: Workshop, *stages: str, metrics: dict[str, float] | None = None) -> None:
    """Makes stages done, as a run would, without starting a process."""
    for step in workshop.plan().steps:
        if step.name in stages:
            step.folder.artifact.mkdir(parents=True)
            (step.folder.artifact / "weights.txt").write_text(step.name)
            write_json(step.folder.path / "result.json", {"metrics": metrics or {}})
            step.folder.seal({"finished": now(), "identity": step.identity.value, "inputs": {}, "metrics": metrics or {"loss": 0.5}})
            workshop.run.make_current(step.name, step.folder)


def reasons(workshop: Workshop, *overrides: str) -> dict[str, str]:
    return {step.name: step.reason for step in workshop.plan(*overrides).steps}


def test_nothing_done_yet_means_that_everything_runs(workshop: Workshop):
    assert workshop.actions() == dict.fromkeys(("rows", "base", "chat", "exam"), "run")
    assert set(reasons(workshop).values()) == {"not done yet"}


def test_a_plan_writes_nothing(workshop: Workshop):
    workshop.plan()
    assert sorted(entry.name for entry in workshop.root.iterdir()) == ["chain.yaml", "chats.jsonl"]


def test_done_stages_are_skipped_and_changes_are_told_by_name_and_value(workshop: Workshop):
    finish(workshop, "rows", "base", "chat", "exam")
    assert set(workshop.actions().values()) == {"skip"}
    changed = reasons(workshop, "stages.base.optimizer.learning_rate=0.05")
    base = workshop.folder("base").path.name
    assert changed["rows"] == "done just now"
    assert changed["base"] == f"optimizer.learning_rate 0.1 -> 0.05; earlier result kept as {base}"
    assert changed["chat"] == "base changes"
    assert changed["exam"] == "base changes; chat changes"


def test_new_content_of_data_is_told(workshop: Workshop):
    finish(workshop, "rows", "base", "chat", "exam")
    (workshop.root / "chats.jsonl").write_text('{"text": "other"}\n')
    assert reasons(workshop)["chat"].startswith("data.0 has new content; earlier result kept as chat-")


def test_an_earlier_result_becomes_current_again(workshop: Workshop):
    finish(workshop, "rows", "base")
    other = workshop.folder("base", "seed=8")
    workshop.run.make_current("base", StageFolder(other.path))
    assert reasons(workshop)["base"] == "done just now; becomes current again"


def test_a_gate_blocks_what_comes_after_but_not_what_is_done(workshop: Workshop):
    finish(workshop, "rows", "base")
    gate = "stages.base.require={loss: {max: 0.1}}"
    assert workshop.actions(gate) == {"rows": "skip", "base": "skip", "chat": "blocked", "exam": "blocked"}
    assert reasons(workshop, gate)["chat"] == "base misses its gate: loss 0.5 is above 0.1"
    assert workshop.plan(gate).step("base").missed == ("loss 0.5 is above 0.1",)


@pytest.mark.parametrize(
    ("require", "metrics", "missed"),
    [
        ({"accuracy": 0.6}, {"accuracy": 0.6}, []),
        ({"accuracy": 0.6}, {"accuracy": 0.59}, ["accuracy 0.59 is below 0.6"]),
        ({"loss": {"max": 1}}, {"loss": 2}, ["loss 2 is above 1"]),
        ({"loss": {"min": 0, "max": 1}}, {"loss": 0.5}, []),
        ({"accuracy": 0.6}, {"loss": 1}, ["it reports no accuracy (it reports loss)"]),
        ({"accuracy": 0.6}, {"accuracy": float("nan")}, ["accuracy nan is below 0.6"]),
        ({"a": 1, "b": 1}, {"a": 0, "b": 0}, ["a 0 is below 1", "b 0 is below 1"]),
    ],
)
def test_gates_are_minima_or_ranges_and_a_missing_metric_misses(require: dict, metrics: dict, missed: list[str]):  # type: ignore[type-arg]
    assert missed_gates(Train(require=require).require, metrics) == missed


def test_a_half_done_stage_resumes_and_says_how_it_ended(workshop: Workshop):
    folder = workshop.folder("rows")
    attempt = folder.new_attempt()
    assert reasons(workshop)["rows"] == "from the start; attempt 1 ended unseen, before its first checkpoint"
    write_json(attempt.folder / "exit.json", {"how": "was stopped by Ctrl-C, without a new checkpoint"})
    assert reasons(workshop)["rows"] == "from the start; attempt 1 was stopped by Ctrl-C, before its first checkpoint"
    write_json(attempt.folder / "exit.json", {"how": "was interrupted after a checkpoint"})
    for step in (90, 200, 1_000_000):
        (folder.path / f"checkpoints/step-{step:06d}").mkdir(parents=True)
    for step in (90, 1_000_000):
        (folder.path / f"checkpoints/step-{step:06d}/COMPLETE").touch()
    assert workshop.actions()["rows"] == "resume"
    assert reasons(workshop)["rows"] == "from step-1000000; attempt 1 was interrupted after a checkpoint"
    (attempt.folder / "exit.json").write_text("{")
    assert reasons(workshop)["rows"] == "from step-1000000; attempt 1 ended unseen"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 99, "files": {}}'])
def test_a_manifest_that_is_none_makes_the_stage_run_again(workshop: Workshop, content: str):
    finish(workshop, "rows")
    (workshop.folder("rows").path / "manifest.json").write_text(content)
    assert workshop.actions()["rows"] == "run"
    assert "manifest.json" in reasons(workshop)["rows"]


def test_a_missing_file_makes_the_stage_run_again(workshop: Workshop):
    finish(workshop, "rows")
    (workshop.folder("rows").artifact / "weights.txt").unlink()
    assert reasons(workshop)["rows"] == "was done, but artifact/weights.txt is missing; no checkpoint is left"


def test_selections_are_checked_by_name(workshop: Workshop):
    with pytest.raises(RecipeError, match=r"no stage 'bse' in .*did you mean 'base'"):
        workshop.plan(start="bse")
    with pytest.raises(RecipeError, match="'exam' comes after 'base'"):
        workshop.plan(start="exam", until="base")
    with pytest.raises(RecipeError, match="neither done nor selected"):
        workshop.plan(only="exam")
    with pytest.raises(RecipeError, match="--only is one stage alone"):
        workshop.plan(only="base", until="chat")
    with pytest.raises(RecipeError, match=r"--redo base: this stage is not among those selected \(chat, exam\)"):
        workshop.plan(start="chat", redo=("base",))


def test_stages_that_are_not_selected_are_left_out(workshop: Workshop):
    assert workshop.actions(until="base") == {"rows": "run", "base": "run", "chat": "left out", "exam": "left out"}
    finish(workshop, "rows", "base")
    assert workshop.actions(start="chat") == {"rows": "skip", "base": "skip", "chat": "run", "exam": "run"}
    assert workshop.actions(redo=("base",)) == {"rows": "skip", "base": "run", "chat": "run", "exam": "run"}


def test_a_stage_below_a_redone_one_runs_again(workshop: Workshop):
    finish(workshop, "rows", "base", "chat", "exam")
    plan = workshop.plan(redo=("base",))
    assert plan.step("base").reason == "asked for by --redo; the earlier result is kept"
    assert plan.step("chat").reason == "base runs again"


def test_differences_name_at_most_three_things():
    old = {"config": dict.fromkeys("abcdef", 1)}
    new = {"config": dict.fromkeys("abcdef", 2)}
    assert differences(old, new, {}) == ["a 1 -> 2", "b 1 -> 2", "c 1 -> 2", "and 3 more"]


def test_differences_tell_new_gone_and_renamed_things():
    assert differences({"config": {"a": 1}}, {"config": {"b": "x"}}, {}) == ["b 'x' is new", "a 1 is gone"]
    assert differences({"config": {"model": {"artifact": "1"}}}, {"config": {"model": {"artifact": "2"}}}, {"model": "base"}) == [
        "base changes"
    ]
    assert differences({"config": {"model": {"hidden_size": 4}}}, {"config": {"model": {"files": "2"}}}, {}) == [
        "model is another",
        "model.hidden_size 4 is gone",
    ]
    assert differences({"version": 1, "seed": 1}, {"version": 2, "seed": 1}, {}) == ["version 1 -> 2"]


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=3), "3 hours ago"),
        (timedelta(days=2, hours=5), "2 days ago"),
    ],
)
def test_ages_are_said_as_people_do(ago: timedelta, words: str):
    at = datetime(2026, 1, 10, tzinfo=UTC)
    assert age((at - ago).isoformat(), at.timestamp()) == words
    assert age((at + timedelta(days=1)).isoformat(), at.timestamp()) == "just now"  # a clock that jumped


def test_artifacts_with_different_tokenizers_are_refused_together(workshop: Workshop):
    finish(workshop, "rows", "base", "chat")
    for name, digest in (("base", "one"), ("chat", "two")):
        (workshop.folder(name).artifact / "artifact.json").write_text(Artifact(kind="causal-lm", tokenizer_digest=digest).model_dump_json())
    assert [str(problem) for problem in tokenizer_problems(workshop.plan())] == [
        f"{workshop.file}:13: stages.exam: base and chat have different tokenizers; train them on one, or take another model",
    ]


def test_the_manifest_states_sizes_and_digests_of_everything(workshop: Workshop):
    finish(workshop, "rows")
    manifest = json.loads((workshop.folder("rows").path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"artifact/weights.txt", "result.json"}
    assert manifest["files"]["artifact/weights.txt"]["size"] == 4
    assert len(manifest["digest"]) == 64
