"""A workshop: toy stages in the registry, a folder with a recipe, and the command line called in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import execute
from pipeline.__main__ import main
from pipeline.identity import identities
from pipeline.plan import Plan, Selection, make_plan
from pipeline.recipe import Recipe, load
from pipeline.store import Run, StageFolder
from stages.registry import STAGES
from tests.pipeline.forked import fork
from tests.pipeline.toy import KINDS

WORKER = [str(Path(__file__).with_name("toy_worker.py"))]
SPAWN = execute.spawn
CHAIN = """\
name: chain
seed: 5
stages:
  rows: {kind: toy-data}
  base:
    kind: toy-train
    data: [{stage: rows, path: rows.jsonl}]
  chat:
    kind: toy-train
    model: base
    data: [{path: chats.jsonl}]
    optimizer: {learning_rate: 2e-2}
  exam: {kind: toy-exam, models: [base, chat]}
"""


@dataclass
class Workshop:
    """A folder with `chain.yaml` and its data, in which commands run."""

    root: Path
    monkeypatch: pytest.MonkeyPatch

    def real_processes(self) -> None:
        """From here on stages start as they do for users; else they are forked from this process, which costs a hundredth of it."""
        self.monkeypatch.setattr(execute, "spawn", SPAWN)

    @property
    def file(self) -> Path:
        return self.root / "chain.yaml"

    def write(self, text: str, name: str = "chain.yaml") -> Path:
        (self.root / name).write_text(text)
        return self.root / name

    def recipe(self, *overrides: str) -> Recipe:
        return load(self.file, overrides)

    @property
    def run(self) -> Run:
        return Run(self.root / "runs" / "chain")

    def plan(self, *overrides: str, **selection: Any) -> Plan:
        return make_plan(self.recipe(*overrides), self.run, Selection(**selection))

    def actions(self, *overrides: str, **selection: Any) -> dict[str, str]:
        return {step.name: step.action for step in self.plan(*overrides, **selection).steps}

    def fingerprints(self, *overrides: str) -> dict[str, str]:
        return {name: identity.fingerprint for name, identity in identities(self.recipe(*overrides)).items()}

    def folder(self, stage: str, *overrides: str) -> StageFolder:
        return self.run.folder(stage, self.fingerprints(*overrides)[stage])

    def call(self, *words: str) -> int:
        return main(list(words), worker=WORKER)

    def carry_out(self, *words: str) -> int:
        return self.call("run", "chain.yaml", *words)

    def attempts(self) -> dict[str, int]:
        """Starts of each stage's process so far, over all its folders."""
        counts: dict[str, int] = {}
        for folder in self.run.folders():
            name = folder.path.name.rsplit("-", 1)[0]
            counts[name] = counts.get(name, 0) + len(folder.attempts())
        return counts


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, places in KINDS.items():
        monkeypatch.setitem(STAGES, kind, places)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text('{"text": "hello"}\n{"text": "good day"}\n')
    monkeypatch.setattr(execute, "spawn", fork)
    made = Workshop(tmp_path, monkeypatch)
    made.write(CHAIN)
    return made


@pytest.fixture
def mistakes(tmp_path: Path) -> Callable[..., list[str]]:
    """Everything that is wrong with a recipe's text, a line each, without the folder's name."""
    from pipeline.errors import RecipeError

    def read(text: str, *overrides: str) -> list[str]:
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        try:
            load(file, overrides)
        except RecipeError as error:
            return [str(problem).replace(f"{tmp_path}/", "") for problem in error.problems]
        return []

    return read
