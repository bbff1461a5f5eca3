"""What docs/cluster.md shows for clusters: manifests that are YAML, shell that is shell, and commands that this program has."""

import re
import shlex
import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline.recipe import load
from stages.contract import Hardware
from tests.recipes.documents import ROOT

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
SHOWN = [document for block in BLOCKS for document in YAML(typ="safe").load_all(block)]
IMAGES = re.findall(r"recipe-pipeline:\w+", TEXT)


def shells() -> list[str]:
    """The shell of every manifest."""
    pods = [shown["spec"]["template"]["spec"] for shown in SHOWN if shown.get("kind") == "Job"]
    return [pods[0]["containers"][0]["command"][-1], next(shown["run"] for shown in SHOWN if "num_nodes" in shown)]


def test_manifests_are_yaml_of_the_kinds_that_they_say():
    assert [shown.get("kind", next(iter(shown))) for shown in SHOWN] == ["hardware", "hardware", "Service", "Job", "name"]
    job = next(shown for shown in SHOWN if shown.get("kind") == "Job")
    names = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]} == names


def test_hardware_that_is_shown_is_what_a_recipe_may_say():
    for shown in SHOWN[:2]:
        Hardware.model_validate(shown["hardware"])


@pytest.mark.parametrize("shell", shells(), ids=["kubernetes", "skypilot"])
def test_shell_is_shell_and_its_commands_are_ours(shell: str, tmp_path, capsys):
    assert subprocess.run(["sh", "-n"], input=shell, text=True, check=False).returncode == 0
    lines = [line.strip().removeprefix("exec ") for line in shell.splitlines()]
    ours = next(line for line in lines if line.startswith("pipeline run"))
    overrides = [word for word in shlex.split(ours.replace("$hosts", "10.0.0.1,10.0.0.2")) if word.startswith("hardware.")]
    recipe = load(ROOT / "recipes" / "demo.yaml", overrides)
    assert len(recipe.hardware.hosts) == 2
    assert recipe.hardware.reach == "follow"
    assert any("python -m pipeline.nodes follow runs/" in line for line in lines)
