"""What a command takes: a recipe means its own results, a run's folder what its links point to. And where a run is looked for."""

import json
from pathlib import Path

import pytest

from pipeline.chat.cast import cast
from pipeline.errors import RecipeError
from pipeline.own import run_of, tell_others
from pipeline.publish.command import kept
from pipeline.publish.errors import ChoiceError
from pipeline.publish.facts import recipe_of
from pipeline.publish.finished import finished
from pipeline.report.reading import read_run
from pipeline.store import Run
from stages.contract import DONE, WRONG_INPUT
from tests.pipeline.conftest import CHAIN, Workshop

Output = pytest.CaptureFixture[str]
OTHER = "stages.chat.steps=3"


@pytest.fixture
def overridden(workshop: Workshop) -> Workshop:
    """A whole run of the recipe, then one whose `chat` and `exam` were made with another setting."""
    assert workshop.carry_out() == DONE
    assert workshop.carry_out(OTHER) == DONE
    return workshop


@pytest.fixture
def only_overridden(workshop: Workshop) -> Workshop:
    """A run that was only ever made with another setting."""
    assert workshop.carry_out(OTHER) == DONE
    return workshop


def test_a_recipe_means_its_own_results_although_the_run_was_last_made_with_others(overridden: Workshop):
    own, linked = overridden.folder("chat"), overridden.folder("chat", OTHER)
    run = run_of("chain.yaml", "runs")
    assert cast(run).models["chat"] == own.artifact.resolve()
    assert {one.name: one.folder.path.name for one in finished(run, ())}["chat"] == own.path.name
    assert read_run(run.path, run.own)["chat"].fingerprint == own.path.name.removeprefix("chat-")  # type: ignore[union-attr]
    assert read_run(run.path, run.own).overrides == ()
    folder = run_of("runs/chain", "runs")
    assert cast(folder).models["chat"] == linked.artifact.resolve(), "the folder still means what its links point to"
    assert read_run(folder.path)["chat"].fingerprint == linked.path.name.removeprefix("chat-")  # type: ignore[union-attr]


def test_the_report_of_a_recipe_does_not_take_the_place_of_what_the_run_holds_instead(overridden: Workshop, capsys: Output):
    def page(target: str) -> Path:
        assert overridden.call("report", target) == DONE
        return Path(capsys.readouterr().out.strip())

    held, own = page("runs/chain"), page("chain.yaml")
    assert (held.name, own.name) == ("report.html", "report-recipe.html")
    assert ["took 3 steps" in found.read_text() for found in (held, own)] == [True, False]
    assert overridden.carry_out() == DONE, "what the recipe asks for is current again"
    capsys.readouterr()
    assert page("chain.yaml").name == "report.html"


def test_a_stage_that_only_the_run_has_makes_its_report_another_one(workshop: Workshop, capsys: Output):
    assert workshop.carry_out() == DONE
    workshop.write(CHAIN.replace("  exam: {kind: toy-exam, models: [base, chat]}\n", ""))
    capsys.readouterr()
    assert workshop.call("report", "chain.yaml") == DONE
    assert Path(capsys.readouterr().out.strip()).name == "report-recipe.html"


def test_a_card_shows_the_recipe_that_is_meant(overridden: Workshop):
    def told(target: str) -> str | None:
        return recipe_of(finished(run_of(target, "runs"), ["chat"])[0])

    assert told("chain.yaml") == CHAIN.rstrip()
    assert told("runs/chain") == f"{CHAIN.rstrip()}\n# with {OTHER}"


def test_publishing_a_recipe_goes_by_its_own_settings(only_overridden: Workshop):
    only_overridden.write(CHAIN + "publish: {owner: later}\n")
    assert kept(run_of("chain.yaml", "runs")) == {"owner": "later"}
    assert kept(run_of("runs/chain", "runs")) is None, "the run began before that line was written"


def test_what_only_other_settings_made_is_refused_with_both_ways_on(only_overridden: Workshop, capsys: Output):
    run = run_of("chain.yaml", "runs")
    says = (
        "runs/chain/chat is not what chain.yaml asks for (steps 3 -> 4); to make that: pipeline run chain.yaml; "
        "to take the one that is there, name runs/chain instead of the recipe"
    )
    with pytest.raises(RecipeError) as refused:
        cast(run).model("chat")
    assert str(refused.value) == says
    with pytest.raises(ChoiceError) as unpublished:
        finished(run, ["chat"])
    assert str(unpublished.value) == says
    assert only_overridden.call("export", "chain.yaml", "chat") == WRONG_INPUT
    assert capsys.readouterr().err == f"{says}\n"
    assert list(cast(run).models) == ["base"], "and nobody is given it unasked"
    tell_others(run)
    assert capsys.readouterr().err.splitlines()[0] == f"note: {says}"


def test_a_stage_that_was_never_made_says_why_and_how(workshop: Workshop):
    workshop.carry_out("--until", "base")
    with pytest.raises(
        RecipeError, match=r"stage 'chat' of chain\.yaml is not done \(not done yet\); to make it: pipeline run chain\.yaml"
    ):
        cast(run_of("chain.yaml", "runs")).model("chat")


def test_where_nobody_can_talk_yet_the_way_there_is_that_of_what_was_named(workshop: Workshop):
    workshop.carry_out(OTHER, "--until", "rows")
    for target in ("chain.yaml", "runs/chain"):  # the folder would be made with the override
        with pytest.raises(RecipeError, match=rf"no finished language model yet; first: pipeline run {target}$"):
            cast(run_of(target, "runs"))


def test_a_stage_that_is_half_done_is_not_done(workshop: Workshop):
    workshop.carry_out("stages.chat.behaviour=fail")
    run = run_of("chain.yaml", "runs")
    says = r"stage 'chat' of chain\.yaml is not done \(from step-000002; attempt 1 failed \(exit code 1\)\); to make it: pipeline run"
    with pytest.raises(RecipeError, match=says):
        cast(run).model("chat")
    with pytest.raises(ChoiceError, match=says):
        finished(run, ["chat"])
    assert read_run(run.path, run.own)["chat"].state == "failed", "a report shows how far it came"  # type: ignore[union-attr]


def test_the_stages_that_there_are_are_told_once_and_a_stages_folder_is_none_of_a_run(workshop: Workshop, capsys: Output):
    workshop.carry_out("stages.chat.behaviour=fail")
    capsys.readouterr()
    assert workshop.call("export", "chain.yaml", "bse") == WRONG_INPUT
    assert capsys.readouterr().err == "the recipe has no stage 'bse' (stages: rows, base, chat, exam); did you mean 'base'?\n"
    assert workshop.call("plan", "runs/chain/base") == WRONG_INPUT
    assert capsys.readouterr().err.endswith("; it lies in the run runs/chain: name that\n")


def test_export_lists_no_artifact_that_nobody_sealed(workshop: Workshop, capsys: Output):
    workshop.carry_out()
    (workshop.folder("chat").path / "manifest.json").unlink()
    for target in ("chain.yaml", "runs/chain"):
        capsys.readouterr()
        assert workshop.call("export", target) == DONE
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["base"]


def test_a_recipe_whose_data_are_gone_points_to_the_folder(workshop: Workshop):
    workshop.carry_out()
    (workshop.root / "chats.jsonl").unlink()
    with pytest.raises(RecipeError, match="name runs/chain instead of the recipe"):
        run_of("chain.yaml", "runs")
    assert list(cast(run_of("runs/chain", "runs")).models) == ["base", "chat"]


def test_the_last_line_names_the_settings_that_the_run_had(workshop: Workshop, capsys: Output):
    workshop.call("run", "chain.yaml", OTHER, "--runs", "elsewhere")
    assert capsys.readouterr().out.endswith(f"next: pipeline status chain.yaml {OTHER} --runs elsewhere\n")
    assert workshop.call("status", "chain.yaml", OTHER, "--runs", "elsewhere") == DONE
    assert "to go on" not in capsys.readouterr().out, "all is done, seen with these settings"


def test_from_another_folder_it_says_where_it_looked_and_where_the_run_is(workshop: Workshop, capsys: Output):
    workshop.carry_out("--until", "base")
    (workshop.root / "notes").mkdir()
    workshop.monkeypatch.chdir(workshop.root / "notes")
    capsys.readouterr()
    assert workshop.call("status", "../chain.yaml") == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "chain  has not run: there is no runs/chain; a run of it lies in ../runs/chain: name that folder, or work in .."
    assert said[-1] == "to begin: pipeline run ../chain.yaml"
    assert workshop.call("chat", "../chain.yaml") == WRONG_INPUT
    said = capsys.readouterr().err.splitlines()
    assert said == ["there is no runs/chain; a run of it lies in ../runs/chain: name that folder, or work in .."], "not that none has run"
    workshop.call("run", "../chain.yaml", "--until", "rows")
    assert "note: this run begins in runs/chain; a run of it lies in ../runs/chain" in capsys.readouterr().err
    workshop.call("run", "../chain.yaml", "--runs", "others", "--only", "chat")
    assert "note: this run begins in others/chain; a run of it lies in ../runs/chain" in capsys.readouterr().err, (
        "and not only what is missing"
    )


def test_where_other_runs_are_asked_for_it_says_that_the_run_is_in_the_usual_place(workshop: Workshop, capsys: Output):
    workshop.carry_out("--until", "rows")
    capsys.readouterr()
    assert workshop.call("export", "chain.yaml", "--runs", "others") == WRONG_INPUT
    says = "there is no others/chain; a run of it lies in runs/chain: name that folder, or leave out --runs\n"
    assert capsys.readouterr().err == says


def test_a_run_that_was_moved_away_from_its_data_tells_what_it_holds(workshop: Workshop, capsys: Output):
    workshop.carry_out("--until", "base")
    (workshop.root / "far" / "away").mkdir(parents=True)
    (workshop.root / "runs" / "chain").rename(workshop.root / "far" / "away" / "chain")
    capsys.readouterr()
    assert workshop.call("status", "far/away/chain") == DONE
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [["base", "done"], ["rows", "done"]]
    assert said.err.startswith("note: far/away/chain was started from a recipe at far/chain.yaml, which is not there (any more)")
    assert "stages.chat.data.0.path: no data at 'chats.jsonl'" in said.err
    assert workshop.call("run", "far/away/chain") == WRONG_INPUT
    assert "is not there (any more); its data are looked for beside it" in capsys.readouterr().err


def test_a_run_of_the_same_name_from_another_recipe_is_no_run_of_it(workshop: Workshop, capsys: Output):
    workshop.carry_out("--until", "base")
    (workshop.root / "notes").mkdir()
    (workshop.root / "notes" / "chain.yaml").write_text(CHAIN.replace("chats.jsonl", "../chats.jsonl"))
    workshop.monkeypatch.chdir(workshop.root / "notes")
    workshop.call("status", "chain.yaml")
    assert "a run of it" not in capsys.readouterr().out


def test_status_says_how_to_go_on_until_nothing_is_left(workshop: Workshop, capsys: Output):
    workshop.carry_out("--until", "base")
    capsys.readouterr()
    workshop.call("status", "runs/chain")
    assert capsys.readouterr().out.endswith("to go on: pipeline run runs/chain\n")
    workshop.carry_out()
    capsys.readouterr()
    workshop.call("status", "chain.yaml")
    assert "pipeline run" not in capsys.readouterr().out
    assert json.loads((Run(Path("runs/chain")).path / "overrides.json").read_text())["overrides"] == []
