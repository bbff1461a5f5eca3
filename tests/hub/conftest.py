"""Fixtures of the test Hub."""

from tests.hub.fixtures import hub, naps, xet_hub

__all__ = ["hub", "naps", "xet_hub"]
