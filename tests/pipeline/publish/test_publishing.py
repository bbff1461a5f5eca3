"""Publishing to a Hub that checks what it gets, through the real client."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard, snapshot_download

from pipeline.publish import Publication, PublishError
from pipeline.publish.errors import ChoiceError
from tests.hub.fixtures import READER, STRANGER, TOKEN
from tests.hub.server import Server
from tests.pipeline.publish.runs import add_stage, model_files, publish


def sent(hub: Server, run: Path, *stages: str, token: str = TOKEN, **how: Any) -> list[Publication]:
    return publish(run, stages, api=HfApi(endpoint=hub.url, token=token), **how)


def artifact(run: Path, stage: str) -> Path:
    return (run / stage / "artifact").resolve()


@pytest.mark.parametrize("which", ["hub", "xet_hub"])
def test_what_is_downloaded_is_what_the_manifest_says(which: str, request: pytest.FixtureRequest, run: Path, tmp_path: Path) -> None:
    hub = request.getfixturevalue(which)
    [done] = sent(hub, run, "policy")
    assert done.repository == "me/demo-policy"
    local = Path(snapshot_download("me/demo-policy", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "down"))
    for file in artifact(run, "policy").iterdir():
        assert (local / file.name).read_bytes() == file.read_bytes()
    assert (local / "README.md").read_text() == done.card


def test_every_model_reward_model_and_tokenizer_is_published_parents_first(hub: Server, run: Path) -> None:
    assert [one.stage for one in sent(hub, run)] == ["words", "base", "chat", "judge", "policy"]


def test_repositories_are_private_unless_asked_otherwise(hub: Server, run: Path) -> None:
    sent(hub, run, "chat")
    sent(hub, run, "base", private=False, license="mit")
    assert hub.repository("me/demo-chat").private
    assert not hub.repository("me/demo-base").private


@pytest.mark.parametrize("which", ["hub", "xet_hub"])
def test_publishing_again_sends_nothing(which: str, request: pytest.FixtureRequest, run: Path) -> None:
    hub = request.getfixturevalue(which)
    first = sent(hub, run, "chat", tag="v1")
    before = len(hub.repository("me/demo-chat").commits)
    record = (run / "published.json").read_bytes()
    puts = len(hub.requests("PUT", "/lfs/"))
    second = sent(hub, run, "chat", tag="v1")
    assert second[0].sent == ()
    assert second[0].commit == first[0].commit
    assert len(hub.repository("me/demo-chat").commits) == before
    assert len(hub.requests("PUT", "/lfs/")) == puts
    assert (run / "published.json").read_bytes() == record


def test_a_new_result_sends_what_changed_and_removes_stale_weights(hub: Server, run: Path) -> None:
    shards = {
        "model-00001-of-00002.safetensors": model_files("a")["model.safetensors"],
        "model-00002-of-00002.safetensors": model_files("b")["model.safetensors"],
    }
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {name: name for name in shards}})}
    whole = model_files("chat")
    split = {**{name: content for name, content in whole.items() if name != "model.safetensors"}, **shards, **index}
    add_stage(run, "chat", "sft", split, inputs={"model": "base"}, config={"epochs": 2})
    sent(hub, run, "chat")
    add_stage(run, "chat", "sft", whole, inputs={"model": "base"}, config={"epochs": 3})
    [done] = sent(hub, run, "chat")
    assert "config.json" not in done.sent
    assert {"model.safetensors", "README.md", *shards} <= set(done.sent)
    files = hub.repository("me/demo-chat").resolve("main").files
    assert [name for name in files if "safetensors" in name] == ["model.safetensors"]


def test_a_file_that_others_added_stays(hub: Server, run: Path) -> None:
    sent(hub, run, "chat")
    HfApi(endpoint=hub.url, token=TOKEN).upload_file(path_or_fileobj=b"hi", path_in_repo="notes.txt", repo_id="me/demo-chat")
    add_stage(run, "chat", "sft", model_files("other"), inputs={"model": "base"}, config={"epochs": 3})
    [done] = sent(hub, run, "chat")
    assert hub.content("me/demo-chat", "notes.txt") == b"hi"
    assert any("has changed since" in note for note in done.notes)


def test_tags_name_the_commit_and_never_move(hub: Server, run: Path) -> None:
    [done] = sent(hub, run, "chat", tag="v1")
    assert hub.repository("me/demo-chat").tags == {"v1": done.commit}
    add_stage(run, "chat", "sft", model_files("other"), inputs={"model": "base"}, config={"epochs": 3})
    with pytest.raises(PublishError, match="v1 names an earlier state") as found:
        sent(hub, run, "chat", tag="v1")
    assert not isinstance(found.value, ChoiceError), "of several stages some may have been sent by then"
    assert hub.repository("me/demo-chat").tags == {"v1": done.commit}
    assert hub.repository("me/demo-chat").branches["main"] == done.commit


def test_a_branch_is_made_where_asked(hub: Server, run: Path) -> None:
    [done] = sent(hub, run, "chat", revision="try/one")
    assert hub.repository("me/demo-chat").branches["try/one"] == done.commit
    assert list(hub.repository("me/demo-chat").resolve("main").files) == [".gitattributes"]
    assert 'revision="try/one"' in done.card


def test_the_run_records_what_lies_where(hub: Server, run: Path) -> None:
    [done] = sent(hub, run, "chat", tag="v1")
    [entry] = json.loads((run / "published.json").read_text()).values()
    assert (entry["repository"], entry["commit"], entry["tag"], entry["endpoint"]) == ("me/demo-chat", done.commit, "v1", hub.url)
    assert json.loads((run / "events.jsonl").read_text())["event"] == "published"
    assert [file.name for file in run.glob(".publish*")] == [".publish.lock"]


def test_the_family_is_gathered_in_a_collection_once(hub: Server, run: Path) -> None:
    sent(hub, run, "base", "chat", collection=True)
    sent(hub, run, "policy", "chat", collection=True)
    [found] = hub.collections.values()
    assert (found.title, found.owner, found.private) == ("demo", "me", True)
    assert found.items == {
        f"me/demo-{name}": f"Stage {name} ({kind})" for name, kind in (("base", "pretrain"), ("chat", "sft"), ("policy", "ppo"))
    }


def test_a_card_links_ancestors_that_were_published(hub: Server, run: Path) -> None:
    sent(hub, run, "base")
    [chat] = sent(hub, run, "chat")
    assert ModelCard(chat.card).data.base_model == ["me/demo-base"]
    [policy] = publish(run, ["policy"], owner="team", dry_run=True)
    assert ModelCard(policy.card).data.base_model == ["me/demo-chat"]


def test_an_organisation_of_the_account_may_own_it_and_others_may_not(hub: Server, run: Path) -> None:
    [done] = sent(hub, run, "chat", owner="team")
    assert done.repository == "team/demo-chat"
    with pytest.raises(PublishError, match="may not publish under 'stranger'"):
        sent(hub, run, "chat", owner="stranger")


def test_without_a_token_nothing_starts(hub: Server, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PublishError, match="hf auth login"):
        publish(run, ["chat"], api=HfApi(endpoint=hub.url))
    assert hub.seen == []


@pytest.mark.parametrize(
    ("token", "complaint"), [(READER, "may only read"), ("hf_" + "unknownunknownunknown", "does not accept the token")]
)
def test_a_token_that_cannot_write_is_refused_before_anything_is_made(hub: Server, run: Path, token: str, complaint: str) -> None:
    with pytest.raises(PublishError, match=complaint) as refused:
        sent(hub, run, "chat", token=token)
    assert token not in str(refused.value)
    assert hub.repositories == {}


def test_a_stranger_publishes_under_the_own_name(hub: Server, run: Path) -> None:
    assert sent(hub, run, "chat", token=STRANGER)[0].repository == "stranger/demo-chat"


def test_a_private_publication_never_lands_in_a_public_repository(hub: Server, run: Path) -> None:
    HfApi(endpoint=hub.url, token=TOKEN).create_repo("me/demo-chat", private=False)
    with pytest.raises(PublishError, match="exists and is public"):
        sent(hub, run, "chat")
    assert hub.requests("POST", "/commit/") == []


def test_a_public_publication_leaves_a_private_repository_private(hub: Server, run: Path) -> None:
    sent(hub, run, "chat")
    [done] = sent(hub, run, "chat", private=False, license="mit")
    assert hub.repository("me/demo-chat").private
    assert "stays private" in done.notes[0]


def test_a_public_model_needs_a_licence(run: Path) -> None:
    with pytest.raises(ValueError, match="what is public needs a `license`"):
        publish(run, ["chat"], private=False, dry_run=True)


def test_a_model_made_from_one_of_the_hub_needs_a_licence_even_in_private(run: Path) -> None:
    add_stage(run, "chat", "sft", model_files("chat"), inputs={"model": "hub:org/model"})
    add_stage(run, "policy", "ppo", model_files("policy"), inputs={"model": "chat"}, config={"steps": 3})
    with pytest.raises(PublishError, match="made from org/model: read its licence, and say with --license"):
        publish(run, ["policy"], dry_run=True)
    [one] = publish(run, ["chat"], dry_run=True, license="llama3")
    assert ModelCard(one.card).data.base_model == ["org/model"]


def test_a_dry_run_shows_all_and_touches_neither_network_nor_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def no_network(*_: object) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    [one] = publish(run, ["chat"], dry_run=True)
    assert (one.repository, one.private, one.commit) == ("your-account/demo-chat", True, None)
    assert set(one.files) == {*(file.name for file in artifact(run, "chat").iterdir()), "README.md"}
    assert "license_name: not-stated" in one.card
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".publish.lock"} == before


def test_two_publications_of_one_run_do_not_meet(run: Path) -> None:
    import fcntl

    with (run / ".publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="another process"):
            publish(run, ["chat"], dry_run=True)
