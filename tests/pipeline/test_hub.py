"""Adapters from the Hub: the base comes with them, before anything starts, and what cannot be done with them is refused as with a stage's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from pipeline.__main__ import main
from pipeline.checks import look
from pipeline.errors import RecipeError
from pipeline.hub import _has_weights, fetch, fetched, settle
from pipeline.recipe import load
from pipeline.store import Run
from stages.adapters.bases import adapters_in, base_of
from tests.hub.fixtures import TOKEN, hub, naps
from tests.hub.server import Server
from tests.pipeline.publish.runs import add_stage, publish
from tests.stages.adapters.chain import WORDS

__all__ = ["hub", "naps"]

RECIPE = """\
name: hub
stages:
  more: {kind: sft, model: "hub:me/tiny-light", data: [{path: chats.jsonl}], adapter: {rank: 4, hand_over: stack}}
"""


@pytest.fixture
def published(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A base, and a LoRA adapter on it that SFT has trained, both on the Hub and nowhere in this machine's cache; the folder of the adapter here."""
    from tests.stages.adapters.chain import Chain

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "chain").mkdir()
    chain = Chain(tmp_path / "chain")
    chain.run("light", "sft", adapter={"kind": "lora", "rank": 4, "hand_over": "stack"}, optimizer={"learning_rate": 0.1})
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    for name, kind, inputs in (("base", "pretrain", {}), ("light", "sft", {"model": "base"})):
        folder = chain.artifact(name)
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        says = json.loads(files.pop("artifact.json", b'{"kind": "causal-lm"}'))
        if name == "light":
            here = (run / "base").readlink().name.encode()
            files["adapter_config.json"] = files["adapter_config.json"].replace(b"base-0", here)
        add_stage(run, name, kind, files, inputs=inputs, artifact=says)
    publish(run, api=HfApi(endpoint=hub.url, token=TOKEN))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say the word {one}", "completion": one} for one in WORDS]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hub.yaml").write_text(RECIPE)
    return chain.artifact("light")


def commit(hub: Server, name: str) -> str:
    return str(HfApi(endpoint=hub.url, token=TOKEN).repo_info(name).sha)


def test_an_adapter_comes_with_its_base_and_answers_as_it_did_here(hub: Server, published: Path):
    import torch

    from stages.core.models import load_causal_lm
    from tests.stages.tiny import CPU

    folder = fetch("hub:me/tiny-light", commit(hub, "me/tiny-light"))
    held = adapters_in(folder)
    assert held is not None
    assert base_of(folder, held).name == "me/tiny-base"
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(load_causal_lm(folder, CPU)(input_ids=ids).logits, load_causal_lm(published, CPU)(input_ids=ids).logits)


def test_a_base_that_the_hub_does_not_give_is_told_with_the_adapter_that_wants_it(hub: Server, published: Path):
    sha = commit(hub, "me/tiny-light")
    HfApi(endpoint=hub.url, token=TOKEN).delete_repo("me/tiny-base")
    with pytest.raises(RecipeError, match="hub:me/tiny-base, the base of the adapter hub:me/tiny-light, cannot be had from the Hub"):
        fetch("hub:me/tiny-light", sha)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.more.adapter=null", "the adapter of the model it starts from is not merged"),
        ("stages.more.adapter={kind: ia3, hand_over: stack}", "one family of adapters"),
    ],
)
def test_what_cannot_be_done_with_an_adapter_of_the_hub_is_refused_before_anything_starts(
    published: Path, override: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", "hub.yaml", override]) == 2
    error = capsys.readouterr().err
    assert "stages.more." in error
    assert told in error
    assert not list((tmp_path / "runs" / "hub").glob("more-*"))
    assert main(["check", "hub.yaml", override]) == 2, "what has been fetched once is known to a check without the network"


@pytest.mark.parametrize("lost", ["adapter_config.json", "model.safetensors", "all of the base"])
def test_a_download_that_was_interrupted_is_no_mistake_of_the_recipe(hub: Server, published: Path, tmp_path: Path, lost: str):
    """What is left of it is fetched by the next run."""
    settle(load(tmp_path / "hub.yaml"), Run(tmp_path / "runs" / "hub"))
    folder = fetch("hub:me/tiny-light", commit(hub, "me/tiny-light"))
    held = adapters_in(folder)
    assert held is not None
    base = base_of(folder, held).path
    assert list(fetched(load(tmp_path / "hub.yaml"), Run(tmp_path / "runs" / "hub").pins()).values()) == [folder]
    if lost == "all of the base":
        shutil.rmtree(base.parents[1])
    else:
        (folder if lost.startswith("adapter") else base).joinpath(lost).unlink()
    assert look("hub.yaml", (), "runs").problems == []
    assert main(["plan", "hub.yaml"]) == 0
    assert base_of(fetch("hub:me/tiny-light", commit(hub, "me/tiny-light")), held).path == base


def test_of_weights_in_parts_all_are_there_or_the_model_is_not(tmp_path: Path):
    assert not _has_weights(tmp_path)
    for part, whole in ((1, False), (2, True)):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").touch()
        assert _has_weights(tmp_path) is whole


@pytest.mark.slow
def test_a_stage_trains_on_an_adapter_of_the_hub_and_names_its_base_as_the_hub_does(
    hub: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))  # for the stage's process, which asks no network
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["run", "hub.yaml", "hardware={gpus: 0, threads: 1}"]) == 0
    left = tmp_path / "runs" / "hub" / "more" / "artifact"
    held = adapters_in(left)
    assert held is not None
    assert held.names == ["light_adapter", "more_adapter"]
    base = base_of(left, held)
    assert (base.name, base.revision) == ("me/tiny-base", None)
