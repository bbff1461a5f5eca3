"""Which stages are published, and what is said where one cannot be."""

from pathlib import Path

import pytest

from pipeline.publish import PublishError
from pipeline.publishing import Publishing
from pipeline.store import Run
from stages.core.files import write_json
from tests.pipeline.publish.runs import TOKENIZER, add_stage, model_files, publish


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


def with_another_chat(run: Path) -> None:
    """As `pipeline run RUN stages.chat.epochs=5 --until chat` leaves it: judge and policy are those of the chat before."""
    add_stage(run, "chat", "sft", model_files("other"), inputs={"model": "base"}, config={"epochs": 5})


def test_what_was_made_from_an_earlier_result_is_not_offered_with_the_later_one(run: Path) -> None:
    before, said = Run(run).current("chat"), list[str]()
    with_another_chat(run)
    after = Run(run).current("chat")
    assert before is not None
    assert after is not None
    assert [one.stage for one in publish(run, dry_run=True, say=said.append)] == ["words", "base", "chat"]
    assert said == [
        f"left out: '{name}' was made from {before.path.name}, in whose place {run} holds {after.path.name} now; "
        f"to make it from that: pipeline run {run}; to publish it as it is: pipeline publish {run} {name}"
        for name in ("judge", "policy")
    ]


def test_what_does_not_belong_together_is_refused_where_both_are_named(run: Path) -> None:
    with_another_chat(run)
    with pytest.raises(
        PublishError, match=r"'policy' was made from chat-\w+, in whose place .* holds chat-\w+ now: it does not belong to the 'chat'"
    ):
        publish(run, ["chat", "policy"], dry_run=True)
    assert [one.stage for one in publish(run, ["judge", "policy"], dry_run=True)] == ["judge", "policy"], "these two do belong together"
    assert [one.stage for one in publish(run, ["judge"], dry_run=True)] == ["judge"]


def test_what_is_left_out_by_what_lies_far_above_it_says_so(run: Path) -> None:
    add_stage(run, "words", "tokenizer", {**TOKENIZER, "tokenizer.json": "{}"}, makes="tokenizer", config={"vocab_size": 9})
    with pytest.raises(PublishError, match="'policy' was made from words-"):
        publish(run, ["words", "policy"], dry_run=True)


def test_a_stage_that_was_made_again_with_another_result_parts_those_below_it(run: Path) -> None:
    folder = Run(run).current("chat")
    assert folder is not None
    manifest = folder.manifest() or {}
    (folder.artifact / "model.safetensors").write_bytes(model_files("noise")["model.safetensors"])  # type: ignore[arg-type]
    folder.unseal()
    write_json(folder.path / "result.json", {"status": "done", "metrics": {}})
    folder.seal({name: value for name, value in manifest.items() if name not in ("files", "digest", "checksum", "format")})
    with pytest.raises(PublishError, match=r"'judge' was made from an earlier chat-\w+, which has been made again since"):
        publish(run, ["chat", "judge"], dry_run=True)
