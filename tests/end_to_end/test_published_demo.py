"""The demo's models on a Hub: cut off, gone on with, and the same to whoever downloads them with nothing but transformers."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from pipeline.publish import PublishError, publish
from tests.command import pipeline
from tests.hub.conftest import hub, naps
from tests.hub.fixtures import TOKEN
from tests.hub.server import Server

__all__ = ["hub", "naps"]
pytestmark = pytest.mark.slow

MODELS = ("base", "chat", "policy")
PROBE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

torch.set_grad_enabled(False)
ids, messages = torch.tensor([list(range(5, 25))]), [{"role": "user", "content": "Where does Anna live?"}]
said = {}
for stage, name in json.loads(sys.argv[1]).items():
    tokenizer = AutoTokenizer.from_pretrained(name)
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    if stage == "words":
        said[stage] = chat["input_ids"].tolist()
        continue
    kind = AutoModelForSequenceClassification if stage == "judge" else AutoModelForCausalLM
    model = kind.from_pretrained(name).eval()
    said[stage] = {"outputs": model(input_ids=ids).logits.tolist()}
    if stage != "judge":
        said[stage]["answer"] = model.generate(**chat, max_new_tokens=24, do_sample=False).tolist()
assert not {"pipeline", "stages", "data"} & set(sys.modules)
print(json.dumps(said))
"""


def stranger(names: dict[str, str], home: Path, **where: str) -> dict[str, object]:
    """What a fresh process in an empty folder gets from models by these names."""
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    told = {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", **where}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(names)], cwd=home, env={**kept, **told}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check(hub: Server, run: Path, tmp_path: Path) -> None:
    """Cut off at a random byte of a random file, the publication goes on; nothing is sent twice; downloads give what the run's own folders give."""
    api, dice = HfApi(endpoint=hub.url, token=TOKEN), random.Random(8)
    weights = {stage: run / stage / "artifact" / "model.safetensors" for stage in (*MODELS, "judge")}
    cut = dice.randrange(min(file.stat().st_size for file in weights.values()))
    hub.fail("PUT", "/lfs/", cut_request=cut, after=dice.randrange(len(weights)), times=99)
    with pytest.raises(PublishError, match="no connection"):
        publish(run, api=api)
    hub.faults.clear()
    known = ("words", *MODELS, "judge")
    stages = {one.stage: one for one in publish(run, api=api)}
    assert set(known) <= set(stages)
    arrived = Counter(one.path for one in hub.requests("PUT", "/lfs/"))
    assert set(arrived.values()) == {1}
    assert len(arrived) >= len(weights)
    requests = len(hub.seen)
    assert all(one.sent == () for one in publish(run, api=api))
    assert not [one for one in hub.seen[requests:] if one.method == "PUT" or "/commit/" in one.path]

    ours = stranger({stage: str((run / stage / "artifact").resolve()) for stage in known}, tmp_path / "ours", HF_HUB_OFFLINE="1")
    theirs = stranger({stage: stages[stage].repository for stage in known}, tmp_path / "theirs", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert ours == theirs
    page = "".join(hub.content(one.repository, "README.md").decode() for one in stages.values())
    assert str(run.resolve()) not in page
    assert TOKEN not in page


def test_the_demo_published_is_the_same_to_a_stranger(hub: Server, naps: list[float], demo_run: Path, tmp_path: Path) -> None:
    check(hub, demo_run, tmp_path)


def test_the_demo_is_written_for_llamacpp_and_ollama(demo_run: Path, tmp_path: Path) -> None:
    done = pipeline("export", str(demo_run), "policy", "--gguf", "--out", str(tmp_path / "out"), "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "read back, its logits differ by 0 at most" in done.stdout
    assert (tmp_path / "out" / "model.gguf").stat().st_size > 1_000_000
    assert 'PARAMETER stop "<|end|>"' in (tmp_path / "out" / "Modelfile").read_text()
