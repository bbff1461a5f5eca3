"""Which stages are published, and what is said where one cannot be."""

from pathlib import Path

import pytest

from pipeline.publish import PublishError
from pipeline.publishing import Publishing
from pipeline.store import Run
from tests.pipeline.publish.runs import add_stage, model_files, publish


@pytest.mark.parametrize(
    ("stage", "says"),
    [("chta", "did you mean 'chat'"), ("world", "makes a dataset"), ("exam", "makes a report")],
)
def test_a_stage_that_cannot_be_published_is_named_with_its_reason(run: Path, stage: str, says: str) -> None:
    with pytest.raises(PublishError, match=says):
        publish(run, [stage], dry_run=True)


def test_a_stage_that_is_not_done_is_refused(run: Path) -> None:
    Run(run).current("chat").unseal()  # type: ignore[union-attr]
    with pytest.raises(PublishError, match="'chat' is not done"):
        publish(run, ["chat"], dry_run=True)


def test_a_run_that_is_not_there_is_refused_with_the_nearest_name(run: Path) -> None:
    with pytest.raises(PublishError, match="did you mean 'demo'"):
        publish(run.parent / "dmo", dry_run=True)


def test_a_run_without_a_finished_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PublishError, match="no stage is done"):
        publish(tmp_path / "empty", dry_run=True)


def test_a_damaged_artifact_is_refused(run: Path) -> None:
    (run / "chat" / "artifact" / "artifact.json").write_text("{")
    with pytest.raises(PublishError, match="cannot be read"):
        publish(run, ["chat"], dry_run=True)


@pytest.mark.parametrize("owner", ["a b", "..", "a/b"])
def test_an_owner_that_can_be_none_is_refused_by_the_settings(owner: str) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        Publishing(owner=owner)


@pytest.mark.parametrize("name", ["a--b", "a..b", "a."])
def test_a_name_that_the_hub_would_refuse_is_refused_first(run: Path, name: str) -> None:
    with pytest.raises(PublishError, match="cannot be a repository's name"):
        publish(run, ["chat"], name=name, layout="branches", dry_run=True)


def test_an_earlier_result_that_became_current_again_is_what_is_published(run: Path) -> None:

    first = Run(run).current("chat")
    assert first is not None
    add_stage(run, "chat", "sft", model_files("other"), inputs={"model": "base"}, config={"epochs": 5})
    later = publish(run, ["chat"], dry_run=True)[0].card
    Run(run).make_current("chat", first)
    earlier = publish(run, ["chat"], dry_run=True)[0].card
    assert earlier != later
    assert first.path.name.removeprefix("chat-") in earlier
