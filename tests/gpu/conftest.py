"""Tests that need a CUDA device; elsewhere each is skipped and says why."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.launch import cuda_devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    blind = "" if cuda_devices(os.environ) else "no CUDA device here"
    for item in items:
        if here not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
        lacking = next((f"the package {name} is not installed" for name in wanted if find_spec(name) is None), "")
        if blind or lacking:
            item.add_marker(pytest.mark.skip(reason=blind or lacking))
