"""What was made from others' models is passed on only under licences that allow it, or that somebody has read."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from pipeline.publish import PublishError
from pipeline.store import read_json
from stages.core.files import write_json
from tests.hub.fixtures import STRANGER, TOKEN
from tests.hub.server import Server
from tests.pipeline.publish.runs import add_stage, model_files, publish


@pytest.fixture
def made(run: Path) -> Path:
    add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "hub:stranger/model"})
    add_stage(run, "policy", "ppo", model_files("policy"), inputs={"model": "chat"}, config={"steps": 3})
    return run


def base(hub: Server, licence: str | None) -> None:
    api = HfApi(endpoint=hub.url, token=STRANGER)
    api.create_repo("stranger/model", private=False, exist_ok=True)
    head = f"---\nlicense: {licence}\n---\n" if licence else "---\ntags: [x]\n---\n"
    api.upload_file(path_or_fileobj=f"{head}# Model".encode(), path_in_repo="README.md", repo_id="stranger/model")


def sent(hub: Server, run: Path, **how: Any) -> Any:
    return publish(run, ["policy"], api=HfApi(endpoint=hub.url, token=TOKEN), **how)[0]


@pytest.mark.parametrize(("theirs", "ours"), [("apache-2.0", "mit"), ("mit", "other"), ("llama3", "llama3"), ("gemma", "gemma")])
def test_a_permissive_licence_or_the_same_one_is_enough(hub: Server, made: Path, theirs: str, ours: str) -> None:
    base(hub, theirs)
    done = sent(hub, made, license=ours if ours != "other" else "bsd-3-clause")
    assert done.notes == (f"made from stranger/model, which is under {theirs}: keep its notice",)
    assert f"which is under {theirs}" in done.card


@pytest.mark.parametrize(("theirs", "says"), [("llama3", "which is under llama3"), (None, "which states no licence")])
def test_any_other_must_be_acknowledged(hub: Server, made: Path, theirs: str | None, says: str) -> None:
    base(hub, theirs)
    with pytest.raises(PublishError, match=f"{says}, and this is to be under mit.*--acknowledge stranger/model"):
        sent(hub, made, license="mit")
    assert hub.requests("POST", "demo-policy") == []
    done = sent(hub, made, license="mit", acknowledge=("stranger/model",))
    assert done.notes == ("made from stranger/model, whose licence you have acknowledged",)


def test_a_dry_run_says_that_the_licence_is_still_to_be_looked_up(made: Path) -> None:
    [one] = publish(made, ["policy"], license="mit", dry_run=True)
    assert one.notes == ("made from stranger/model: its licence is looked up when this is sent",)


@pytest.mark.parametrize(("card", "passes"), [("---\nlicense: mit\n---\n", True), ("---\nlicense: gemma\n---\n", False), (None, False)])
def test_a_model_in_a_local_folder_is_asked_for_its_licence_too(run: Path, tmp_path: Path, card: str | None, passes: bool) -> None:
    (tmp_path / "theirs").mkdir()
    if card:
        (tmp_path / "theirs" / "README.md").write_text(card)
    folder = add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "./theirs"})
    job = read_json(folder.path / "job.json")
    job["inputs"]["model"]["path"] = str(tmp_path / "theirs")
    write_json(folder.path / "job.json", job)
    with pytest.raises(PublishError, match="made from theirs: read its licence"):
        publish(run, ["chat"], dry_run=True)
    if passes:
        assert publish(run, ["chat"], dry_run=True, license="apache-2.0")[0].notes == (
            "made from theirs, which is under mit: keep its notice",
        )
    else:
        with pytest.raises(PublishError, match="--acknowledge theirs"):
            publish(run, ["chat"], dry_run=True, license="apache-2.0")
