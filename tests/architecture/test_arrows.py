"""The house holds: arrows point one way, stages do not know one another, files stay small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.registry import STAGES
from tests.architecture.imports import ROOT, environment_reads, graph, imported, modules, reached

SHARED = ("core", "adapters")
ADAPTERS = {
    "stages.adapters",
    "stages.adapters.config",
    "stages.adapters.combinations",
    "stages.adapters.bases",
    "stages.adapters.layers",
    "stages.adapters.tasks",
}
"""Torch-free files of adapters, which the plan asks."""
KINDS = sorted(folder.name for folder in (ROOT / "stages").iterdir() if folder.is_dir() and folder.name not in (*SHARED, "__pycache__"))
PURE = ("stages.ppo.algorithm", "stages.core.losses", "data.packing", "data.columns", "data.formats")
ENVIRONMENT = {
    "stages.__main__": "reads what the launcher wrote",
    "stages.core.neighbours": "reads what the launcher wrote",
    "stages.adapters.__main__": "keeps libraries quiet and off the devices before they load",
    "pipeline.publish.command": "looks for secrets, to keep them out of what is sent",
    "pipeline.execute": "hands the environment on to stage processes",
    "pipeline.estimate.calibrating": "hands the environment on to stage processes",
    "pipeline.estimate.deciding": "looks which devices a child would see",
    "pipeline.chat.serve": "hands the environment on to the server",
    "pipeline.running": "looks which devices a child would see",
    "pipeline.shares": "looks which devices a child would see",
    "pipeline.here": "looks which devices a child would see",
    "pipeline.upkeep": "looks which devices a child would see",
}
"""Modules that may touch the environment, and why."""
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")
LINES = 400


def package(name: str) -> str:
    return name.partition(".")[0]


def test_arrows_point_from_pipeline_to_stages_to_data():
    allowed = {"pipeline": {"pipeline", "stages", "data"}, "stages": {"stages", "data"}, "data": {"data"}}
    wrong = [f"{name} -> {other}" for name, others in graph().items() for other in others if package(other) not in allowed[package(name)]]
    assert wrong == []


def test_the_orchestrator_imports_only_torch_free_files_of_the_stages():
    free = {
        "stages",
        "stages.contract",
        "stages.registry",
        "stages.core",
        "stages.core.config",
        "stages.core.dialogue",
        "stages.core.files",
        "stages.core.trust",
        "stages.core.workload",
        *ADAPTERS,
    } | {f"stages.{kind}.config" for kind in KINDS}
    wrong = [
        f"{name} -> {other}"
        for name, others in graph().items()
        if package(name) == "pipeline"
        for other in others
        if package(other) == "stages" and other not in free
    ]
    assert wrong == []


def test_the_orchestrator_knows_no_stage_by_name():
    allowed = {
        "stages",
        "stages.contract",
        "stages.registry",
        "stages.core",
        "stages.core.config",
        "stages.core.files",
        "stages.core.trust",
        "stages.core.workload",
        *ADAPTERS,
    }
    core = [name for name in modules() if package(name) == "pipeline" and name.count(".") == 1]
    wrong = [f"{name} -> {other}" for name in core for other in graph()[name] if package(other) == "stages" and other not in allowed]
    assert wrong == []


def test_no_stage_imports_another():
    def stage(name: str) -> str | None:
        parts = name.split(".")
        return parts[1] if parts[0] == "stages" and len(parts) > 1 and parts[1] in KINDS else None

    wrong = [
        f"{name} -> {other}"
        for name, others in graph().items()
        if package(name) == "stages"
        for other in others
        if stage(other) not in (None, stage(name))
    ]
    assert wrong == []


def test_settings_never_import_what_they_configure_nor_anything_heavy():
    edges = graph()
    for name, file in modules().items():
        if name.endswith(".config") and package(name) == "stages":
            below = reached(name, edges)
            assert not [other for other in below if other.endswith(".run")], name
            heavy = [other for module in below for other in imported(modules()[module]) if package(other) in HEAVY]
            assert heavy == [], f"{file}: {heavy}"


@pytest.mark.parametrize("name", PURE)
def test_pure_files_import_nothing_of_ours_but_one_another(name: str):
    if name in modules():
        assert graph()[name] <= {name.rpartition(".")[0], *PURE} - {name}
    else:
        pytest.skip(f"{name} is not written yet")


def test_the_algorithm_of_ppo_imports_torch_and_nothing_else():
    above = {name.partition(".")[0] for name in imported(modules()["stages.ppo.algorithm"])}
    assert above - set(sys.stdlib_module_names) == {"torch"}


def test_the_loop_of_ppo_is_short_enough_to_read_as_the_algorithm():
    assert len(modules()["stages.ppo.loop"].read_text(encoding="utf-8").splitlines()) < 120


def test_settings_do_not_come_from_the_environment():
    wrong = {name: environment_reads(file) for name, file in modules().items() if name not in ENVIRONMENT and environment_reads(file)}
    assert wrong == {}


def test_no_two_modules_need_each_other_to_load():
    edges = graph(at_start=True)
    pairs = [(name, other) for name in edges for other in edges[name]]
    assert [f"{name} and {other}" for name, other in pairs if name in reached(other, edges, packages=False)] == []


def test_files_stay_small_and_are_named_for_what_they_hold():
    long = {name: count for name, file in modules().items() if (count := len(file.read_text(encoding="utf-8").splitlines())) >= LINES}
    assert long == {}
    assert [name for name in modules() if name.rpartition(".")[2] in ("utils", "helpers", "common", "util", "misc")] == []


def test_every_module_says_what_it_is():
    import ast

    silent = [
        name
        for name, file in modules().items()
        if (text := file.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []


def test_a_stage_is_a_folder_with_settings_and_a_registry_line():
    assert sorted(STAGES) == KINDS
    for kind in KINDS:
        assert STAGES[kind][0].startswith(f"stages.{kind}.config:")
        assert STAGES[kind][1] == f"stages.{kind}.run:run"


def test_importing_the_orchestrator_loads_nothing_heavy():
    names = [name for name in modules() if package(name) == "pipeline" and not name.endswith("__main__")]
    script = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    found = subprocess.run([sys.executable, "-c", script], env=environment, cwd=Path("/"), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
