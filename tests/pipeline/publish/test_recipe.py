"""`publish:` in a recipe: checked with it, carried out at the end of a run, and what the command goes by."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import publish as publishing
from pipeline.publish.command import main
from pipeline.publishing import Publishing
from tests.pipeline.conftest import Workshop, mistakes, toys, workshop  # noqa: F401 - fixtures
from tests.pipeline.publish.runs import RECIPE

CHAIN = "name: chain\nseed: 5\nstages:\n  rows: {kind: toy-data}\n  base: {kind: toy-train, data: [{stage: rows, path: rows.jsonl}]}\n"


class Recorder:
    """Stands where the real publishing is called."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, []  # type: ignore[var-annotated]

    def __call__(self, run: Path, how: Publishing, **rest: Any) -> list[Any]:
        self.calls.append((run.name, how))
        if self.fails:
            raise publishing.PublishError(self.fails)
        return []


def test_a_run_ends_with_what_the_recipe_says_of_publishing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(publishing, "publish", seen := Recorder())
    workshop.write(CHAIN + "publish: {owner: me, stages: [base], tag: v1}\n")
    assert workshop.carry_out("--until", "rows") == 0
    assert seen.calls == [], "a part of the run is not the run"
    assert workshop.carry_out() == 0
    assert seen.calls == [("chain", Publishing(owner="me", stages=("base",), tag="v1"))]


def test_a_publication_that_fails_leaves_the_run_done_and_says_how_to_go_on(
    workshop: Workshop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(publishing, "publish", Recorder("the Hub answered 503"))
    workshop.write(CHAIN + "publish: {owner: me}\n")
    assert workshop.carry_out() == 1
    assert "the Hub answered 503\nthe run is done and stays; to publish it: pipeline publish runs/chain" in capsys.readouterr().err
    assert set(workshop.actions().values()) == {"skip"}
    assert workshop.carry_out("publish=null") == 0, "one word takes it back"


@pytest.mark.parametrize(
    ("block", "manner", "place"),
    [
        ("{owner: me, tag: v1}", "private, tagged v1", "me/chain-base"),
        ("{layout: branches, private: false, license: mit}", "public, under mit", "your-account/chain, branch base"),
        ("{layout: folders, name: kin, pull_request: true}", "private, as pull requests", "your-account/kin, folder base"),
        ("{owner: me, collection: true, revision: dev}", "private, in a collection", "me/chain-base, branch dev"),
    ],
)
def test_the_plan_says_what_will_be_published_where(
    workshop: Workshop,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    block: str,
    manner: str,
    place: str,
) -> None:
    workshop.write(CHAIN + f"publish: {block}\n")
    assert workshop.carry_out("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"published once the whole run is done: {manner}" in lines
    assert f"  base  {place}" in lines, "and nothing of `rows`, which is data"


def test_publishing_bears_no_identity(workshop: Workshop) -> None:  # noqa: F811
    assert workshop.fingerprints("publish={owner: me}") == workshop.fingerprints()


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("{stages: [bsae]}", "recipe.yaml:6: publish.stages.0: no stage 'bsae' (stages: rows, base); did you mean 'base'?"),
        (
            "{stages: [rows]}",
            "recipe.yaml:6: publish.stages.0: 'rows' makes a dataset; only causal-lm, reward-model, tokenizer can be published",
        ),
        ("{onwer: me}", "recipe.yaml:6: publish.onwer: unknown key; did you mean 'owner'?"),
        ("{private: false}", "recipe.yaml:6: publish: what is public needs a `license` (apache-2.0, mit, cc-by-4.0, …)"),
        (
            "{layout: branch}",
            "recipe.yaml:6: publish.layout: found 'branch', wanted 'repositories', 'branches' or 'folders'; did you mean 'branches'?",
        ),
        ("{token: hf_x}", "recipe.yaml:6: publish.token: unknown key"),
    ],
)
def test_a_mistake_in_it_is_told_with_its_line(mistakes: Callable[..., list[str]], block: str, says: str) -> None:  # noqa: F811
    found = mistakes(f"{CHAIN}publish: {block}\n")
    assert len(found) == 1
    assert found[0].startswith(says)


def test_the_command_goes_by_the_recipe_and_the_command_line_over_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "recipe.yaml").write_text(RECIPE + "publish: {owner: team, stages: [chat], license: mit, layout: folders}\n")
    assert main([str(run), "--dry-run", "--json"]) == 0
    [one] = json.loads(capsys.readouterr().out)
    assert (one["repository"], one["folder"], one["stage"]) == ("team/demo", "chat", "chat")
    assert "license: mit" in one["card"]
    assert main([str(run), "base", "--owner", "me", "--layout", "repositories", "--name", "other", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["repository"] == "me/other-base"
