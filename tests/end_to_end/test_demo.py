"""The whole chain, small: what it leaves can be used by someone who has never heard of this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import pipeline

pytestmark = pytest.mark.slow

STRANGER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
folder, kind = sys.argv[1:]
loader = AutoModelForCausalLM if kind == "causal-lm" else AutoModelForSequenceClassification
model, tokenizer = loader.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
chat = [{"role": "user", "content": "Where does Anna live?"}, {"role": "assistant", "content": "Anna lives in Rome."}]
ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
with torch.no_grad():
    print(json.dumps({"ids": ids[0].tolist(), "logits": model(ids).logits[0].double().flatten().tolist()}))
assert not {"stages", "pipeline", "data"} & set(sys.modules)
"""


def stranger(artifact: Path, kind: str) -> dict:
    """What plain transformers computes from the artifact, in a process that cannot see this project."""
    done = subprocess.run([sys.executable, "-I", "-c", STRANGER, str(artifact), kind], capture_output=True, text=True, cwd=artifact)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("stage", "kind"), [("base", "causal-lm"), ("chat", "causal-lm"), ("policy", "causal-lm"), ("judge", "reward-model")]
)
def test_every_artifact_gives_a_stranger_the_logits_it_gives_us(demo_run: Path, stage: str, kind: str):
    import torch

    from data.chat import render
    from stages.contract import Hardware
    from stages.core.models import load_causal_lm, load_reward_model, load_tokenizer

    artifact = demo_run / stage / "artifact"
    theirs = stranger(artifact, kind)
    load = load_causal_lm if kind == "causal-lm" else load_reward_model
    model = load(artifact, Hardware()).eval()
    chat = [{"role": "user", "content": "Where does Anna live?"}, {"role": "assistant", "content": "Anna lives in Rome."}]
    assert render(load_tokenizer(artifact), chat).ids == theirs["ids"]
    with torch.no_grad():
        ours = model(torch.tensor([theirs["ids"]])).logits[0].double().flatten()
    torch.testing.assert_close(ours, torch.tensor(theirs["logits"], dtype=torch.float64), atol=1e-5, rtol=1e-5)


def test_every_number_that_a_stage_reports_is_one_that_it_has_declared(demo_run: Path):
    """A gate (`require`) is held against the declaration before a stage starts, and against the number after it."""
    from fnmatch import fnmatchcase

    from stages.registry import config_class

    for folder in (link for link in demo_run.iterdir() if link.is_symlink()):
        manifest, job = (json.loads((folder / f"{name}.json").read_text()) for name in ("manifest", "job"))
        declared = config_class(manifest["kind"]).model_validate_json(json.dumps(job["config"])).measures()
        assert [name for name in manifest["metrics"] if not any(fnmatchcase(name, pattern) for pattern in declared)] == [], folder.name
        seldom = {"skipped_batches", "roll_backs", "importance_capped", "policy_loss_scale", "critic_loss_scale"}
        plain = {name for name in declared if "*" not in name} - seldom
        assert plain <= set(manifest["metrics"]) | {"start_distance"}, f"{folder.name} declares what it does not report"


def test_a_finished_run_does_nothing_and_says_why(demo_run: Path):
    before = {path: path.stat().st_mtime_ns for path in demo_run.rglob("manifest.json")}
    again = pipeline("run", "recipes/demo.yaml", folder=demo_run.parents[1])
    assert again.returncode == 0
    assert "done" in again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in demo_run.rglob("manifest.json")} == before


def test_another_learning_rate_reruns_its_stage_and_what_depends_on_it_and_changing_back_costs_nothing(demo_run: Path):
    folder = demo_run.parents[1]
    changed = json.loads(pipeline("plan", "recipes/demo.yaml", "stages.chat.optimizer.learning_rate=5e-4", "--json", folder=folder).stdout)
    actions = {stage["name"]: stage["action"] for stage in changed["stages"]}
    assert {name for name, action in actions.items() if action == "run"} == {"chat", "judge", "policy", "exam"}
    back = json.loads(pipeline("plan", "recipes/demo.yaml", "--json", folder=folder).stdout)
    assert {stage["action"] for stage in back["stages"]} == {"skip"}


def test_the_policy_begins_as_the_sft_model_and_says_so(demo_run: Path):
    lines = [json.loads(line) for line in (demo_run / "policy" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if "kl" in line)
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_table_holds_the_whole_family_with_intervals(demo_run: Path):
    result = json.loads((demo_run / "exam" / "result.json").read_text())
    columns = [column for table in result["tables"] for column in table["columns"]]
    assert {"base", "chat", "policy"} <= set(columns)
    change = next(table for table in result["tables"] if table["title"].startswith("Change from chat"))
    row = next(row for row in change["rows"] if row[0] == "correct change")
    assert str(row[change["columns"].index("policy")]).count(" to ") == 1
    assert result["metrics"]["policy.reward_above_best_of_4"] == pytest.approx(
        result["metrics"]["policy.reward"] - result["metrics"]["best_of_4.reward"]
    )


def test_the_judge_is_probed_on_facts_that_no_pair_is_about(demo_run: Path):
    metrics = json.loads((demo_run / "judge" / "result.json").read_text())["metrics"]
    assert {"probe_accuracy", "probe_lead", "probe_deviation"} <= metrics.keys()
    asked = {json.loads(line)["prompt"][-1]["content"] for line in (demo_run / "world" / "artifact" / "pairs.jsonl").open()}
    probed = {json.loads(line)["prompt"][-1]["content"] for line in (demo_run / "world" / "artifact" / "pairs-unasked.jsonl").open()}
    assert probed
    assert not asked & probed
