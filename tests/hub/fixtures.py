"""A Hub for a test: its server, the real client pointed at it, and no waiting."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.hub import Account
from tests.hub.server import Server

TOKEN = "hf_" + "testWriteTokenOfMe" * 2
READER = "hf_" + "testReadTokenOfMe" * 2
STRANGER = "hf_" + "testWriteTokenOfAStranger"
TOKENS = {TOKEN: Account("me", organisations=("team",)), READER: Account("me", role="read"), STRANGER: Account("stranger")}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A Hub without Xet, as `HF_HUB_DISABLE_XET=1` makes the client use it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield from _serve(monkeypatch, tmp_path)


@pytest.fixture
def xet_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A Hub with Xet, the client's default."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    yield from _serve(monkeypatch, tmp_path, xet=tmp_path / "cas")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client or the publisher would have slept between attempts; nobody sleeps."""
    import time

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def _serve(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> Iterator[Server]:
    import huggingface_hub.constants
    from huggingface_hub import close_session
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with Server(TOKENS, **settings) as server:
        # What `HF_ENDPOINT` sets where the client is imported after it.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server
    close_session()
