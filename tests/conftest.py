"""A workspace as a user has it, with the shipped recipes made small enough to run in a test."""

import os
import shutil

# Before anything imports torch. At this size, and beside other tests, threads only wait for one another; and how many of them add up a sum decides
# its last bits, which a busy machine would change from one run to the next.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from ruamel.yaml import YAML

from tests.command import CANARY, pipeline
from tests.recipes.documents import RECIPES

# A shell starts its background jobs with Ctrl-C ignored, and children inherit that: the tests that send signals need them heard.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# The same examples each time: a run that lands must not depend on luck. Without a deadline, since machines differ.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")

SMALL = {
    "demo": {
        "world": {"documents": 600, "chats": 200, "pairs": 300, "prompts": 60},
        "base": {"tokens": 20_000},
        "chat": {"epochs": 1},
        "judge": {"epochs": 1, "require": {}},
        "policy": {"steps": 3, "batch": 16, "critic_warmup": 1},
        "exam": {"limit": 8},
    },
    "arithmetic": {
        "sums": {"documents": 300, "chats": 300, "prompts": 60},
        "base": {"tokens": 20_000},
        "chat": {"epochs": 1},
        "policy": {"steps": 3, "batch": 16, "critic_warmup": 1},
        "exam": {"limit": 8},
    },
}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipes/` in it; sizes are cut in those that tests run, stages and their settings are not."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "recipes").mkdir()
    shutil.copytree(RECIPES[0].parent / "shapes", folder / "recipes" / "shapes")
    yaml = YAML()
    for path in RECIPES:
        recipe = yaml.load(path.read_text(encoding="utf-8"))
        for name, cuts in SMALL.get(path.stem, {}).items():
            recipe["stages"][name].update(cuts)
        with (folder / "recipes" / path.name).open("w", encoding="utf-8") as stream:
            yaml.dump(recipe, stream)
    return folder


@pytest.fixture(scope="session")
def demo_run(workspace: Path) -> Path:
    """The run folder of the small demo, all stages done."""
    done = pipeline("run", "recipes/demo.yaml", folder=workspace, HF_TOKEN=CANARY, SOME_API_KEY=CANARY)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / "runs" / "demo"
