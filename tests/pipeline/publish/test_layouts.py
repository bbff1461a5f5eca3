"""One repository a stage, or one for the family; a change made, or only proposed."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, snapshot_download

from pipeline.publish import Publication, PublishError
from tests.hub.fixtures import TOKEN
from tests.hub.server import Server
from tests.pipeline.publish.runs import TOKENIZER, add_stage, model_files, publish, safetensors


def sent(hub: Server, run: Path, *stages: str, **how: Any) -> list[Publication]:
    return publish(run, stages, api=HfApi(endpoint=hub.url, token=TOKEN), **how)


def weights(run: Path, stage: str) -> bytes:
    return (run / stage / "artifact" / "model.safetensors").read_bytes()


def test_a_family_in_one_repository_has_a_branch_for_each_stage(hub: Server, run: Path, tmp_path: Path) -> None:
    done = sent(hub, run, "base", "chat", layout="branches", tag="v1")
    assert {one.repository for one in done} == {"me/demo"}
    repository = hub.repository("me/demo")
    assert repository.branches | {"main": ""} == {"main": "", "base": done[0].commit, "chat": done[1].commit}
    assert repository.tags == {"base-v1": done[0].commit, "chat-v1": done[1].commit}
    local = snapshot_download("me/demo", revision="chat", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "chat")
    assert (Path(local) / "model.safetensors").read_bytes() == weights(run, "chat")
    assert 'from_pretrained(name, revision="chat")' in done[1].card
    assert "[me/demo\\@base](/me/demo/tree/base)" in done[1].card
    page = hub.content("me/demo", "README.md").decode()
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## base", "## chat"]


def test_a_family_in_one_repository_has_a_folder_for_each_stage(hub: Server, run: Path, tmp_path: Path) -> None:
    done = sent(hub, run, "base", "chat", layout="folders", name="family")
    local = Path(snapshot_download("me/family", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "all"))
    for stage in ("base", "chat"):
        assert (local / stage / "model.safetensors").read_bytes() == weights(run, stage)
    assert 'from_pretrained(name, subfolder="chat")' in done[1].card
    assert (local / "README.md").read_text().count("subfolder=") == 4
    assert json.loads((run / "published.json").read_text()).keys() == {f"{hub.url}/me/family@main/{stage}" for stage in ("base", "chat")}


@pytest.mark.parametrize("layout", ["branches", "folders"])
def test_publishing_a_family_again_sends_nothing_and_a_later_stage_leaves_the_others(hub: Server, run: Path, layout: str) -> None:
    sent(hub, run, "base", "chat", layout=layout)
    commits = len(hub.repository("me/demo").commits)
    assert [one.sent for one in sent(hub, run, "base", "chat", layout=layout)] == [(), ()]
    assert len(hub.repository("me/demo").commits) == commits
    [later] = sent(hub, run, "policy", layout=layout)
    assert later.notes == ()
    inside = {"branches": ("base", "model.safetensors"), "folders": ("main", "base/model.safetensors")}[layout]
    assert hub.content("me/demo", inside[1], inside[0]) == weights(run, "base")
    assert "## policy" in hub.content("me/demo", "README.md").decode(), "the page of the family knows all of them"
    assert "## base" in hub.content("me/demo", "README.md").decode()


def test_stale_weights_leave_their_own_folder_only(hub: Server, run: Path) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": model_files(str(n))["model.safetensors"] for n in (1, 2)}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {name: name for name in shards}})}
    whole = model_files("chat")
    split = {**{name: content for name, content in whole.items() if name != "model.safetensors"}, **shards, **index}
    add_stage(run, "chat", "sft", split, inputs={"model": "base"}, config={"epochs": 2})
    sent(hub, run, "base", "chat", layout="folders")
    add_stage(run, "chat", "sft", whole, inputs={"model": "base"}, config={"epochs": 3})
    sent(hub, run, "chat", layout="folders")
    files = hub.repository("me/demo").resolve("main").files
    assert sorted(name for name in files if "safetensors" in name) == ["base/model.safetensors", "chat/model.safetensors"]


def test_an_adapter_names_the_branch_of_its_base_and_refuses_a_folder(hub: Server, run: Path) -> None:
    adapter = {"base_model_name_or_path": "../../" + (run / "base").readlink().name + "/artifact", "revision": None}
    files: dict[str, str | bytes] = {
        **TOKENIZER,
        "adapter_config.json": json.dumps(adapter),
        "adapter_model.safetensors": safetensors(b"x"),
    }
    add_stage(run, "light", "sft", files, inputs={"model": "base"})
    sent(hub, run, "base", "light", layout="branches")
    found = json.loads(hub.content("me/demo", "adapter_config.json", "light"))
    assert found == {"base_model_name_or_path": "me/demo", "revision": "base"}
    with pytest.raises(PublishError, match="no adapter can name a base in a folder"):
        sent(hub, run, "base", "light", layout="folders")
    sent(hub, run, "base", "light")
    assert json.loads(hub.content("me/demo-light", "adapter_config.json")) == {"base_model_name_or_path": "me/demo-base", "revision": None}


def test_adapters_in_folders_of_their_own_name_a_base_further_up(hub: Server, run: Path) -> None:
    base = "../../../" + (run / "base").readlink().name + "/artifact"
    files: dict[str, str | bytes] = dict(TOKENIZER)
    for name in ("light", "lighter"):
        files[f"{name}/adapter_config.json"] = json.dumps({"base_model_name_or_path": base.removeprefix("../")})
        files[f"{name}/adapter_model.safetensors"] = safetensors(name.encode())
    add_stage(run, "light", "sft", {**TOKENIZER, "adapter_model.safetensors": safetensors(b"x")}, inputs={"model": "base"})
    add_stage(run, "lighter", "ppo", files, inputs={"model": "light"})
    done = {one.stage: one for one in sent(hub, run, "base", "light", "lighter")}
    for name in ("light", "lighter"):
        assert json.loads(hub.content("me/demo-lighter", f"{name}/adapter_config.json")) == {"base_model_name_or_path": "me/demo-base"}
    assert 'from_pretrained("me/demo-base")' in done["lighter"].card
    assert 'set_adapter(["light", "lighter"], inference_mode=True)' in done["lighter"].card


def test_a_change_can_be_proposed_once_and_gone_on_with(hub: Server, run: Path) -> None:
    [first] = sent(hub, run, "chat", pull_request=True)
    repository = hub.repository("me/demo-chat")
    assert list(repository.resolve("main").files) == [".gitattributes"]
    assert repository.pull_requests == {"refs/pr/1": first.commit}
    assert first.proposal == f"{hub.url}/me/demo-chat/discussions/1"
    [again] = sent(hub, run, "chat", pull_request=True)
    assert (again.sent, repository.pull_requests) == ((), {"refs/pr/1": first.commit})
    assert not (run / "published.json").exists(), "what is proposed is not published"
    [changed] = sent(hub, run, "chat", pull_request=True, license="mit")
    assert changed.sent == ("README.md",)
    assert repository.pull_requests == {"refs/pr/1": changed.commit}


def test_a_proposal_whose_answer_was_lost_is_not_made_twice(hub: Server, run: Path, naps: list[float]) -> None:
    hub.fail("POST", "/commit/", cut_response=5)
    sent(hub, run, "chat", pull_request=True)
    assert list(hub.repository("me/demo-chat").pull_requests) == ["refs/pr/1"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"layout": "branches", "revision": "dev"}, "leave `revision` out"),
        ({"pull_request": True, "tag": "v1"}, "no tag can name it"),
        ({"pull_request": True, "layout": "branches"}, "goes to one branch"),
    ],
)
def test_what_does_not_go_together_is_refused(run: Path, how: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        publish(run, ["chat"], dry_run=True, **how)
