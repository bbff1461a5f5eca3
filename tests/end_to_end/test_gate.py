"""A reward model that is noise is stopped by its gate, before PPO is wasted on it."""

import json
import random
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.command import pipeline

pytestmark = pytest.mark.slow


def test_a_judge_that_learned_from_coin_tosses_is_stopped_and_no_policy_is_trained(demo_run: Path, tmp_path: Path):
    """The demo, small, with every label of the judge's pairs drawn anew: held-out pairs keep theirs, and the judge knows nothing of them."""
    coin, pairs = random.Random(0), []
    for line in (demo_run / "world" / "artifact" / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        if coin.random() < 0.5:
            pair |= {"chosen": pair["rejected"], "rejected": pair["chosen"]}
        pairs.append({name: pair[name] for name in ("prompt", "chosen", "rejected")})
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "coin.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    yaml = YAML()
    recipe = yaml.load((demo_run.parents[1] / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    recipe["stages"]["judge"] |= {"data": [{"path": "coin.jsonl"}], "require": {"accuracy": 0.7}}
    with (tmp_path / "recipes" / "demo.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(recipe, stream)
    shutil.copytree(demo_run, tmp_path / "runs" / "demo", symlinks=True)

    done = pipeline("run", "recipes/demo.yaml", folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "judge misses its gate: accuracy" in done.stdout + done.stderr
    started = [json.loads(line) for line in (tmp_path / "runs" / "demo" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    before = len((demo_run / "events.jsonl").read_text(encoding="utf-8").splitlines())
    assert {event.get("stage") for event in started[before:]} <= {None, "judge"}
    planned = json.loads(pipeline("plan", "recipes/demo.yaml", "--json", folder=tmp_path).stdout)
    actions = {stage["name"]: stage["action"] for stage in planned["stages"]}
    assert (actions["policy"], actions["exam"]) == ("blocked", "blocked")
