"""Publishing: from a run's finished stages to repositories on the Hub.

    verify -> clean folder -> card -> secrets -> account -> create -> upload -> verify -> tag -> record

Everything up to `account` needs no network and is all that a dry run does. Every later step can be repeated: a rerun sends only what is missing.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.card import write_card
from pipeline.publish.errors import PublishError
from pipeline.publish.files import Staged, refuse_secrets, sizes, stage_files
from pipeline.publish.finished import Finished, finished
from pipeline.publish.remote import MAIN, Remote
from pipeline.store import Run, now, read_json, write_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RECORD = "published.json"
"""In the run directory: what was published where."""
YOU = "your-account"
"""Stands for the owner in a dry run that names none."""


@dataclass(frozen=True)
class Publication:
    """One stage as one repository."""

    stage: str
    repository: str
    private: bool
    revision: str
    tag: str | None
    files: dict[str, int]
    """Sizes by name, card included."""
    card: str
    left_out: tuple[str, ...]
    """Files of the artifact that are not on the list of what is published."""
    notes: tuple[str, ...] = ()
    url: str | None = None
    commit: str | None = None
    """None in a dry run."""
    sent: tuple[str, ...] = ()
    """Files that were not there yet; none where a rerun found everything."""


def publish(
    run: Path,
    stages: Sequence[str] = (),
    *,
    owner: str | None = None,
    private: bool = True,
    licence: str | None = None,
    revision: str = MAIN,
    tag: str | None = None,
    collection: bool = False,
    dry_run: bool = False,
    secrets: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    api: "HfApi | None" = None,
) -> list[Publication]:
    """Publish the current results of the named stages, or of all that can be, each as a model repository `owner/RUN-STAGE`.

    The token comes from the Hub client's own places. `secrets` are values that must not leave this machine (`secret_values(os.environ)`).
    `collection` gathers them, parents first, in a collection named like the run. `say` gets a line for each thing that happens; `api` is another client than the one that the environment names.

    Raises:
        PublishError: what is wrong and what to do; a rerun goes on.
        StoreError: the run directory is damaged.
    """
    chosen = finished(run, stages)
    _allow(chosen, private=private, licence=licence)
    with _workplace(run) as folder:
        remote = None if dry_run else Remote(api, say)
        account = remote.account() if remote else None
        namespace = owner or (account.name if account else YOU)
        if account and namespace not in (account.name, *account.organisations):
            raise PublishError(
                f"{account.name} may not publish under '{namespace}' (may under: {', '.join((account.name, *account.organisations))})"
            )
        names = {stage.fingerprint: _repository(namespace, run, stage.name) for stage in chosen}
        links = {**_recorded(run, remote.endpoint if remote else None), **names}
        # All folders are made and searched before the first byte is sent.
        parcels = [_parcel(stage, folder, names[stage.fingerprint], links, licence, revision, secrets) for stage in chosen]
        plans = [(stage, replace(one, private=private, tag=tag), staged) for stage, (one, staged) in zip(chosen, parcels, strict=True)]
        if remote is None:
            return [one for _, one, _ in plans]
        done = [_send(remote, stage, one, staged) for stage, one, staged in plans]
        if collection:
            notes = {one.repository: f"Stage {stage.name} ({stage.kind})" for (stage, _, _), one in zip(plans, done, strict=True)}
            say(remote.collect(run.resolve().name, namespace, private=private, notes=notes))
        return done


def _allow(stages: Sequence[Finished], *, private: bool, licence: str | None) -> None:
    if licence is not None:
        return
    outside = sorted(
        {
            origin.reference
            for one in stages
            for every in [*one.ancestors(), one]
            for origin in every.origins
            if origin.reference.startswith("hub:")
        }
    )
    if outside:
        raise PublishError(
            f"made from {', '.join(outside)}: read its licence, and say with --license under which licence this may be passed on"
        )
    if not private:
        raise PublishError("a public model needs a licence: say which with --license (apache-2.0, mit, cc-by-4.0, …)")


@contextmanager
def _workplace(run: Path) -> Iterator[Path]:
    """An empty folder inside the run, on the same disk so that weights need no copy. One publication of a run at a time."""
    with (run / ".publish.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PublishError(f"{run} is being published by another process") from error
        for left in run.glob(".publish-*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=run) as name:
            yield Path(name)


def _repository(owner: str, run: Path, stage: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    name = f"{owner}/{run.resolve().name}-{stage}"
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise PublishError(f"'{name}' cannot be a repository's name: {error}") from error
    return name


def _parcel(
    stage: Finished, folder: Path, repository: str, links: Mapping[str, str], licence: str | None, revision: str, secrets: Sequence[str]
) -> tuple[Publication, Staged]:
    """The clean folder of a stage, with its card, searched for secrets."""
    staged = stage_files(stage, folder / stage.name, links)
    card = write_card(stage, repository, links, licence=licence, revision=None if revision == MAIN else revision)
    (staged.folder / "README.md").write_text(card, encoding="utf-8")
    refuse_secrets(staged.folder, secrets)
    files = sizes(staged.folder)
    return Publication(stage.name, repository, True, revision, None, files, card, staged.left_out), staged


def _send(remote: Remote, stage: Finished, one: Publication, staged: Staged) -> Publication:
    """One repository, from its creation to the note in the run."""
    remote.say(f"{one.repository}: {'private' if one.private else 'public'}, {len(one.files)} files, {sum(one.files.values()):,} bytes")
    notes = remote.ensure(one.repository, private=one.private, revision=one.revision)
    changed = remote.changed(one.repository, staged.folder, one.revision)
    head = remote.head(one.repository, one.revision)
    if one.tag and (tagged := remote.tagged(one.repository, one.tag)) and (changed or tagged != head):
        raise PublishError(
            f"{one.repository}: tag {one.tag} names an earlier state ({tagged[:10]}); choose another tag, tags are never moved"
        )
    before = _record(stage.run).get(_key(remote, one), {}).get("commit")
    if changed and before and before != head:
        notes.append(
            f"{one.repository} has changed since this run was last published there ({before[:10]}); its history keeps what is replaced"
        )
    message = f"Stage {stage.name} of run {stage.run.path.resolve().name}, fingerprint {stage.fingerprint}"
    commit = remote.upload(one.repository, staged.folder, revision=one.revision, message=message) if changed else head
    remote.verify(one.repository, staged.folder, commit)
    if one.tag:
        remote.tag(one.repository, one.tag, commit)
    url = f"{remote.endpoint}/{one.repository}"
    done = replace(one, commit=commit, sent=changed, url=url, notes=(*one.notes, *notes))
    _note(remote, stage, done)
    return done


def _key(remote: Remote, one: Publication) -> str:
    return f"{remote.endpoint}/{one.repository}@{one.revision}"


def _record(run: Run) -> dict[str, dict[str, Any]]:
    found = read_json(run.path / RECORD)
    return dict(found) if isinstance(found, dict) else {}


def _recorded(run: Path, endpoint: str | None) -> dict[str, str]:
    """Repositories by fingerprint, as far as published to this Hub before."""
    return {
        str(entry["fingerprint"]): str(entry["repository"])
        for entry in _record(Run(run)).values()
        if endpoint is None or entry["endpoint"] == endpoint
    }


def _note(remote: Remote, stage: Finished, done: Publication) -> None:
    """What lies where, in the run itself; an event only where something changed."""
    entry = {
        "stage": done.stage,
        "fingerprint": stage.fingerprint,
        "digest": stage.digest,
        "endpoint": remote.endpoint,
        "repository": done.repository,
        "revision": done.revision,
        "tag": done.tag,
        "private": done.private,
        "commit": done.commit,
        "files": done.files,
    }
    record = _record(stage.run)
    if {**record.get(_key(remote, done), {}), "time": None} != {**entry, "time": None}:
        record[_key(remote, done)] = {**entry, "time": now()}
        write_json(stage.run.path / RECORD, record)
        stage.run.event("published", stage=done.stage, repository=done.repository, commit=done.commit, tag=done.tag)
