"""Xet without its servers: hf-xet takes `local://FOLDER` as a content store, so that the client's default path runs on one machine."""

from pathlib import Path


class XetStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def hash_of(self, sha256: str) -> str | None:
        return None

    def read(self, wanted: list[str]) -> dict[str, bytes]:
        return {}
