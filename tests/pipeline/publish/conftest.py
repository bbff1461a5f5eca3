"""Fixtures of publishing: a finished run, and a Hub to publish it to."""

from pathlib import Path

import pytest

from tests.hub.fixtures import hub, naps, xet_hub
from tests.pipeline.publish.runs import family

__all__ = ["hub", "naps", "run", "xet_hub"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return family(tmp_path / "runs")
