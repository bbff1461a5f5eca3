"""`pipeline clean` and `pipeline doctor`: what may go, and whether what is there is whole."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.jobs import PACKAGES, relative
from pipeline.launch import cores, cuda_devices
from pipeline.lock import held, held_by, works_on
from pipeline.plan import make_plan
from pipeline.store import Run, StageFolder, read_json
from pipeline.target import open_target
from stages.contract import DONE, TOKENS

SEAL = "COMPLETE"
"""As in `stages.core.checkpoints`: a listing like that of a manifest."""


def clean_run(options: argparse.Namespace) -> int:
    """Lists what the recipe does not ask for any more, tokens included, less what is worked on now; removes it with `--yes`, while no other process
    works on the run."""
    recipe, run = open_target(options.recipe, options.overrides, options.runs)
    wanted = {step.folder.path.name for step in make_plan(recipe, run).steps}
    kept = [folder for folder in run.folders() if folder.path.name in wanted or works_on(folder.path)]
    old = [folder for folder in run.folders() if folder not in kept]
    tokens = list(_unread_tokens(run, kept))
    entries: list[dict[str, Any]] = [
        {"folder": relative(folder.path), "bytes": _bytes(folder.path), "state": _state(folder)} for folder in old
    ] + [{"folder": relative(folder), "bytes": _bytes(folder), "state": "tokens that no stage of the recipe has read"} for folder in tokens]
    if options.yes and entries:
        with held(run.lock):
            for folder in old:
                _remove(run, folder)
                run.event("removed", folder=folder.path.name)
            for path in tokens:
                shutil.rmtree(path)
                path.with_suffix(".lock").unlink(missing_ok=True)
                run.event("removed", folder=f"{TOKENS}/{path.name}")
    if options.json:
        print(json.dumps({"removed": options.yes, "folders": entries}, indent=1))
        return DONE
    for entry in entries:
        print(f"{'removed' if options.yes else 'would remove'}  {entry['folder']}  {entry['bytes'] / 1e6:,.1f} MB  {entry['state']}")
    if (who := held_by(run.lock)) is not None:
        print(f"{who}; what it works on is kept, and nothing can be removed before it ends")
    if not entries:
        print("nothing to remove")
    elif not options.yes and who is None:
        print("to remove them, add --yes")
    return DONE


def _remove(run: Run, folder: StageFolder) -> None:
    for link in run.path.iterdir():
        if link.is_symlink() and link.readlink().name == folder.path.name:
            link.unlink()
    folder.unseal()  # so that a removal cut short never looks like a result
    shutil.rmtree(folder.path)


def _unread_tokens(run: Run, kept: Sequence[StageFolder]) -> Iterator[Path]:
    """Tokenised data to which none of these stages has a link, and what is left of some that were never finished."""
    read = {link.name for folder in kept for link in (folder.path / TOKENS).glob("*")}
    yield from sorted(folder for folder in (run.path / TOKENS).glob("*") if folder.is_dir() and folder.name not in read)


def _state(folder: StageFolder) -> str:
    try:
        return "an earlier result" if folder.manifest() else "not finished"
    except StoreError:
        return "damaged"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def examine(target: str | None, runs: str) -> dict[str, Any]:
    """The environment, and with a target every byte of its run."""
    entries = list(_environment())
    if target is not None:
        run = Run(Path(target)) if (Path(target) / "recipe.yaml").is_file() else open_target(target, (), runs)[1]
        entries += _results(run)
    return {"ok": all(entry["state"] != "WRONG" for entry in entries), "entries": entries}


def _entry(what: str, text: str, *, wrong: bool = False, note: bool = False) -> dict[str, str]:
    return {"what": what, "state": "WRONG" if wrong else "note" if note else "ok", "text": text}


def _environment() -> Iterator[dict[str, str]]:
    import os
    from importlib import metadata

    version = sys.version.split()[0]
    yield _entry("python", f"{version} ({sys.executable})", wrong=sys.version_info < (3, 11))
    for package in PACKAGES:
        try:
            yield _entry(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            optional = package == "deepspeed"
            yield _entry(
                package,
                "not installed; needed for ZeRO only" if optional else "not installed; run `make setup`",
                wrong=not optional,
                note=optional,
            )
    devices = cuda_devices(os.environ)
    yield _entry("devices", f"{devices} CUDA devices, {cores()} CPU cores")
    free = shutil.disk_usage(".").free
    yield _entry("disk", f"{free / 1e9:,.1f} GB free here", note=free < 5e9)


def _checkpoints(folder: StageFolder) -> Iterator[dict[str, str]]:
    """Every checkpoint of a stage against its seal; a damaged one costs steps and not the result, for resuming passes it over."""
    for checkpoint in sorted((folder.path / "checkpoints").glob("step-*")):
        name = relative(checkpoint)
        try:
            seal = read_json(checkpoint / SEAL)
        except StoreError as error:
            yield _entry(name, str(error), wrong=True)
            continue
        if not isinstance(seal, dict) or not isinstance(seal.get("files"), dict):
            yield _entry(name, f"its {SEAL} marker is missing; resuming passes it over", wrong=True)
            continue
        faults = StageFolder(checkpoint).faults(seal, contents=True)
        text = f"{'; '.join(faults)}; resuming passes it over" if faults else f"{len(seal['files'])} files whole"
        yield _entry(name, text, wrong=bool(faults))
    for left in (folder.path / "checkpoints").glob(".partial-*"):
        yield _entry(relative(left), "was not finished; the next attempt removes it", note=True)


def _results(run: Run) -> Iterator[dict[str, str]]:
    """Every stage folder of a run, its files read in full."""
    folders = list(run.folders())
    if not folders:
        yield _entry(str(run.path), "holds no results yet", note=True)
    for folder in folders:
        name = relative(folder.path)
        try:
            manifest = folder.manifest()
        except StoreError as error:
            yield _entry(name, str(error), wrong=True)
            continue
        if manifest is None:
            yield _entry(name, f"not finished; {folder.checkpoint() or 'no checkpoint'}", note=True)
            continue
        faults = folder.faults(manifest, contents=True)
        yield _entry(name, "; ".join(faults) or f"{len(manifest['files'])} files whole", wrong=bool(faults))
    for folder in folders:
        yield from _checkpoints(folder)
    for file in ("overrides.json", "hub.json"):
        try:
            read_json(run.path / file)
        except StoreError as error:
            yield _entry(file, str(error), wrong=True)
