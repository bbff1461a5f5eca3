"""The images: what they hold, who runs in them, and that the replay does the same steps. No daemon builds them here."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from docker.replay import in_context, moved, steps
from pipeline.recipe import load
from tests.recipes.documents import ROOT

FILES = [ROOT / "docker" / name for name in ("Dockerfile", "Dockerfile.cpu")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_images_are_pinned_built_in_two_stages_and_run_as_nobody_special(file: Path):
    found = steps(file)
    assert [step.rest.split()[0] for step in found if step.word == "FROM"] == ["python:3.11.13-slim-bookworm"] * 2
    last = {step.word: step.rest for step in found if step.stage == 1}
    assert last["USER"] == "1000"
    assert json.loads(last["ENTRYPOINT"]) == ["pipeline"]
    install = next(step.rest for step in found if "-c constraints.txt" in step.rest)
    assert "'.[deepspeed]'" in install
    uv = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert f"UV_VERSION={uv[1]}" in [step.rest for step in found if step.word == "ARG"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_copied_is_let_into_the_build_and_nothing_else_is(file: Path):
    copied = {name for step in steps(file) if step.word == "COPY" and not step.rest.startswith("--from") for name in step.rest.split()[:-1]}
    assert copied == in_context(ROOT)
    packages = re.search(r"^include = (\[.*\])", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert {name.rstrip("*") for name in json.loads(packages[1])} <= copied


def test_the_replay_runs_every_step_in_order_with_paths_of_its_own(tmp_path: Path):
    given = [step.rest for step in steps(FILES[1]) if step.word == "RUN"]
    done = [moved(text, tmp_path) for text in given]
    assert [text.replace(str(tmp_path), "") for text in done] == given
    assert f"python -m venv {tmp_path}/opt/venv && {tmp_path}/opt/venv/bin/pip install" in done[0]


def test_both_nodes_of_the_compose_file_share_one_run():
    services = YAML(typ="safe").load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    first, second = services["first"], services["second"]
    recipe = load(ROOT / "recipes" / "demo.yaml", first["command"][2:])
    assert recipe.hardware.hosts == ("first", "second") == (first["hostname"], second["hostname"])
    assert recipe.hardware.reach == "follow"
    assert second["entrypoint"] == ["python", "-m", "pipeline.nodes", "follow", f"runs/{recipe.name}", "second"]
    assert first["image"] == second["image"] == "recipe-pipeline:cpu"
    assert "work:/work" in first["volumes"]
    assert "work:/work" in second["volumes"]
