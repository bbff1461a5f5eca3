"""Xet without its servers: hf-xet takes `local://FOLDER` as a content store, so that the client's default path runs on one machine.

The store knows a file by its Xet hash, a commit by its SHA-256. The shards (`*.mdb`) hold both, in records of 48 bytes:
a header, then for each file its hash, as many segments as it says, as many verification records if flagged, and its SHA-256 if flagged.
"""

import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

RECORD = 48
HAS_VERIFICATION, HAS_METADATA = 0x80000000, 0x40000000


class XetStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def hashes(self) -> dict[str, str]:
        """Xet hash by SHA-256, of every file in the store."""
        return {sha256: name for shard in (self.folder / "xet/xorbs/shards").glob("*.mdb") for sha256, name in _files(shard.read_bytes())}

    def read(self, sizes: dict[str, int]) -> dict[str, bytes]:
        """Rebuild the files of these SHA-256 and sizes; what the store does not hold is left out."""
        known = self.hashes()
        wanted = {sha256: known[sha256] for sha256 in sizes if sha256 in known}
        if not wanted:
            return {}
        from hf_xet import XetFileInfo, XetSession

        with tempfile.TemporaryDirectory() as name:
            # A copy, because the client's process holds a lock on the store's index.
            copy = shutil.copytree(self.folder, Path(name) / "cas")
            with XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
                for sha256, xet_hash in wanted.items():
                    group.start_download_file(XetFileInfo(xet_hash, sizes[sha256]), str(Path(name) / sha256))
            return {sha256: (Path(name) / sha256).read_bytes() for sha256 in wanted}


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    place = RECORD
    while place + RECORD <= len(shard) and (name := shard[place : place + 32]) != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, place + 32)
        place += RECORD * (1 + segments * (2 if flags & HAS_VERIFICATION else 1))
        if flags & HAS_METADATA:
            yield _hexadecimal(shard[place : place + 32]), _hexadecimal(name)
            place += RECORD


def _hexadecimal(raw: bytes) -> str:
    """Xet writes a hash as four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))
