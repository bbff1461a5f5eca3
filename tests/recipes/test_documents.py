"""What the documents show is what the program does."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from data.world import Spec
from data.world.vocabulary import NAMES
from stages.world.config import World
from tests.command import pipeline
from tests.recipes.documents import DOCUMENTS, RECIPES, ROOT, commands, yaml_blocks

SHOWN = [(document.name, command) for document in DOCUMENTS for command in commands(document)]
NEEDS_DATA = "../shared/data"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_says_its_command_hardware_and_cost_and_checks_clean(path: Path):
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("name:")]
    assert all(word in header for word in ("command", "hardware", "cost"))
    if NEEDS_DATA in text and not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("the real files that this recipe names are not beside the project")
    checked = pipeline("check", str(path), folder=ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_recipe_shown_in_a_document_checks_clean_and_can_be_planned(document: Path, tmp_path: Path):
    for number, block in enumerate(yaml_blocks(document)):
        recipe = tmp_path / f"shown-{number}.yaml"
        recipe.write_text(block, encoding="utf-8")
        for command in ("check", "plan"):
            done = pipeline(command, str(recipe), folder=tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [command for _, command in SHOWN if command.startswith("make")])
def test_every_make_target_shown_exists_and_ends_in_the_command_it_promises(command: str):
    steps = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert steps.returncode == 0, steps.stderr
    assert {"make demo": "pipeline run recipes/demo.yaml", "make test": "pytest"}[command] in steps.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("document", "command"), [pair for pair in SHOWN if pair[1].startswith("pipeline")])
def test_every_pipeline_command_shown_works_as_it_is_typed(document: str, command: str, demo_run: Path):
    words = shlex.split(command)
    if any("real-small" in word for word in words):
        pytest.skip("runs on files beside the project; its plan is tested above")
    done = pipeline(*words[1:], folder=demo_run.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [command for _, command in SHOWN])
def test_no_command_is_shown_that_no_test_executes(command: str):
    assert command.split()[0] in ("make", "pipeline", "source", "python")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_sizes_of_the_world_are_told_as_they_are():
    line = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("- **world**"))
    for size in World.model_fields.keys() & {"people", "documents", "chats", "pairs", "prompts"}:
        default = f"{getattr(Spec, size):,}"
        assert re.search(rf"`{size}` \({default}\b", line), f"{size} is {default} if left out"
    assert f"at most {len(NAMES)})" in line
