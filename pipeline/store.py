"""The run directory: stage folders named by fingerprint, links to the current ones, attempts, manifests, events.

A stage is done if and only if its manifest exists and its files match it. There is no other record to disagree with the disk.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST, content_digest, listing
from pipeline.errors import LaterFormatError, StoreError, suggestion
from stages.core.files import digest, write_json, write_text

LOCK = "lock"
"""File of the run directory that whoever works on it holds (`pipeline.lock`)."""
FORMAT = 1
"""Of manifests; raised when a field changes its meaning."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json(file: Path) -> Any:
    """Content of a JSON file, None if there is none. Raises StoreError if it is damaged."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({' '.join(str(error).split())}); move it away and run again") from error


@dataclass(frozen=True)
class Attempt:
    """One start of a stage process, and how it ended."""

    number: int
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def exit(self) -> dict[str, Any] | None:
        """`exit.json`; None if nobody saw the end."""
        found = read_json(self.folder / "exit.json")
        return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class StageFolder:
    """One result of one stage, whole or not."""

    path: Path

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, None if there is none. Raises StoreError if it is damaged or of a later version."""
        found = read_json(self.path / MANIFEST)
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
            raise StoreError(f"{self.path / MANIFEST} is not a manifest; move it away and run again")
        if found.get("format") != FORMAT:
            raise LaterFormatError(
                f"{self.path / MANIFEST} has format {found.get('format')}, this version reads {FORMAT}; use the version that wrote it"
            )
        if found.get("checksum", checksum(found)) != checksum(found):  # the first manifests had none
            raise StoreError(
                f"{self.path / MANIFEST} has changed since it was written: its checksum is another one; move it away and run again"
            )
        return found

    def faults(self, manifest: Mapping[str, Any], *, contents: bool = False) -> list[str]:
        """Files that do not match the manifest: by size, and with `contents` by SHA-256."""
        found = []
        for name, entry in manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                found.append(f"{name} is missing")
            elif (size := file.stat().st_size) != entry["size"]:
                found.append(f"{name} has {size:,} bytes, its manifest says {entry['size']:,}")
            elif contents and digest(file) != entry["sha256"]:
                found.append(f"{name} has changed: its SHA-256 is not the manifest's")
        return found

    def result(self) -> dict[str, Any] | None:
        """What the stage said back, if it said that it is done."""
        try:
            found = read_json(self.path / "result.json")
        except StoreError:
            return None
        return found if isinstance(found, dict) and found.get("status", "done") == "done" else None

    def orders(self) -> dict[str, Any]:
        """What the last attempt was told; empty if nothing was."""
        try:
            found = read_json(self.path / "job.json")
        except StoreError:
            return {}
        return found if isinstance(found, dict) else {}

    def ground(self) -> dict[str, Any] | None:
        """What the newest sealed checkpoint says that it can be loaded on (`stages.core.checkpoints.Ground`); None without one that can be read."""
        newest = self.checkpoint()
        try:
            found = read_json(self.path / "checkpoints" / newest / "COMPLETE") if newest else None
        except StoreError:
            return None
        return found if isinstance(found, dict) else None

    def checkpoint(self) -> str | None:
        """Name of the newest sealed checkpoint."""
        sealed = [file.parent.name for file in self.path.glob("checkpoints/step-*/COMPLETE")]
        return max(sealed, key=lambda name: int(name.removeprefix("step-")) if name[5:].isdecimal() else -1, default=None)

    def attempts(self) -> list[Attempt]:
        numbers = [int(folder.name) for folder in self.path.glob("attempts/*") if folder.name.isdecimal()]
        return [Attempt(number, self.path / "attempts" / str(number)) for number in sorted(numbers)]

    def new_attempt(self) -> Attempt:
        attempts = self.attempts()
        number = attempts[-1].number + 1 if attempts else 1
        attempt = Attempt(number, self.path / "attempts" / str(number))
        attempt.folder.mkdir(parents=True)
        return attempt

    def unseal(self) -> None:
        """Takes back that the stage is done, before anything in its folder is touched. Checkpoints stay."""
        for name in (MANIFEST, "result.json"):
            (self.path / name).unlink(missing_ok=True)

    def seal(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """States that the folder is complete: the last file written."""
        files = {f"artifact/{name}": entry for name, entry in listing(self.artifact).items()}
        result = self.path / "result.json"
        files["result.json"] = {"size": result.stat().st_size, "sha256": digest(result)}
        manifest = {"format": FORMAT, **statement, "digest": artifact_digest(files), "files": files}
        manifest["checksum"] = checksum(manifest)
        write_json(self.path / MANIFEST, manifest)
        return manifest


def checksum(manifest: Mapping[str, Any]) -> str:
    """Of all that a manifest says, so that a flipped bit in a number does not pass for one."""
    said = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def artifact_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of an artifact's content, from the files of its manifest."""
    return content_digest({name: dict(entry) for name, entry in files.items() if name.startswith("artifact/")})


@dataclass(frozen=True)
class Own:
    """What one recipe means by its stages, wherever the links of its run point."""

    folders: Mapping[str, StageFolder]
    """By stage: its result, or what is begun of it."""
    lacking: Mapping[str, str]
    """By stage that is not done with these settings: a sentence that says so, and what to do."""
    replaced: tuple[str, ...]
    """Those of them that another result stands for in the run."""
    text: str
    """The recipe's bytes."""
    make: str
    """The command that makes what is not done."""
    overrides: tuple[str, ...] = ()
    trusted: tuple[Path, ...] = ()
    """Folders of results whose models' own code may run."""


@dataclass(frozen=True)
class Run:
    """The directory of one run, seen through its links, or as one recipe means it."""

    path: Path
    own: Own | None = None

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    def folder(self, stage: str, fingerprint: str) -> StageFolder:
        return StageFolder(self.path / f"{stage}-{fingerprint}")

    def current(self, stage: str) -> StageFolder | None:
        """What the stage's link points to; of a recipe, its own result."""
        if self.own is not None:
            return self.own.folders.get(stage)
        link = self.path / stage
        return StageFolder(self.path / link.readlink().name) if link.is_symlink() and link.exists() else None

    def named(self) -> list[str]:
        """Stages that have a current result, by name."""
        return sorted(self.own.folders if self.own is not None else [entry.name for entry in self.path.iterdir() if entry.is_symlink()])

    def lacks(self, stage: str) -> str | None:
        """Why a stage of the recipe has no result; None where no recipe is meant, or it has one."""
        if self.own is not None and stage in self.own.lacking:
            return self.own.lacking[stage]
        if self.own is None or stage in self.own.folders:
            return None
        known = list(dict.fromkeys([*self.own.folders, *self.own.lacking]))  # what is begun is in both
        held = f"; the run holds one: name {self.path} instead of the recipe" if (self.path / stage).is_symlink() else ""
        return f"the recipe has no stage '{stage}' (stages: {', '.join(known)}){held or suggestion(stage, known)}"

    def holds_others(self) -> bool:
        """Whether a link of the run points to anything but a result of the recipe that is meant."""
        links = [entry for entry in self.path.iterdir() if entry.is_symlink()] if self.own is not None else []
        meant = {name: folder.path.name for name, folder in self.own.folders.items()} if self.own is not None else {}
        return any(meant.get(link.name) != link.readlink().name for link in links)

    def may_run(self) -> tuple[Path, ...]:
        """Artifacts whose models' own code may run: none of a run that is named by its folder, which anybody may have made."""
        return tuple(folder.resolve() for folder in self.own.trusted) if self.own is not None else ()

    def recipe(self) -> tuple[str, tuple[str, ...]] | None:
        """Text and overrides of the recipe that is meant, or that the run was last started with; None where none is noted."""
        if self.own is not None:
            return self.own.text, self.own.overrides
        if not (self.path / "recipe.yaml").is_file():
            return None
        given = (read_json(self.path / "overrides.json") or {}).get("overrides") or ()
        return (self.path / "recipe.yaml").read_text(encoding="utf-8", errors="replace"), tuple(map(str, given))

    def make_current(self, stage: str, folder: StageFolder) -> bool:
        """Points the stage's link to a result; True if it pointed elsewhere before."""
        link = self.path / stage
        if link.is_symlink() and link.readlink() == Path(folder.path.name):
            return False
        partial = self.path / f".{stage}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(folder.path.name)
        partial.replace(link)
        return True

    def set_aside(self, folder: StageFolder) -> Path | None:
        """Keeps an earlier result under a number, so that the same stage can run again; None if there is nothing."""
        if not folder.path.exists():
            return None
        number = 1
        while (kept := folder.path.with_name(f"{folder.path.name}.{number}")).exists():
            number += 1
        folder.path.rename(kept)
        return kept

    def record_recipe(self, text: str, overrides: tuple[str, ...], recipe: Path) -> None:
        """The recipe's bytes, and what the command line changed in them."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "recipe.yaml", text)
        # Relative, so that a run and its recipe can move together; between real folders, because `..` does not go back through a link.
        where = os.path.relpath(recipe.resolve(), self.path.resolve())
        write_json(self.path / "overrides.json", {"overrides": list(overrides), "recipe": where})

    def event(self, event: str, **values: Any) -> None:
        """Adds one line to the run's history."""
        line = json.dumps({"time": now(), "event": event, **values}, ensure_ascii=False)
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def folders(self) -> Iterator[StageFolder]:
        """Every stage folder, also those that no recipe asks for any more."""
        if self.path.is_dir():
            for entry in sorted(self.path.iterdir()):
                if entry.is_dir() and not entry.is_symlink() and ((entry / "job.json").exists() or (entry / "attempts").exists()):
                    yield StageFolder(entry)

    def pins(self) -> dict[str, str]:
        """Commits of Hub repositories that this run has settled on."""
        found = read_json(self.path / "hub.json")
        return found if isinstance(found, dict) else {}


def age(stamp: str, at: float | None = None) -> str:
    """How long ago, as people say it."""
    seconds = max(0.0, (time.time() if at is None else at) - datetime.fromisoformat(stamp).timestamp())
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
