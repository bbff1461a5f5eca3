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
from pipeline.publish.errors import BusyError, ChoiceError, PublishError
from pipeline.publish.family import family_card
from pipeline.publish.files import Staged, base_of, refuse_secrets, sizes, stage_files
from pipeline.publish.finished import Finished, finished, together
from pipeline.publish.licences import check_licences
from pipeline.publish.places import Place, places
from pipeline.publish.remote import Remote
from pipeline.publishing import MAIN, YOU, Publishing
from pipeline.store import Own, Run, now, read_json
from stages.core.files import write_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RECORD = "published.json"
"""In the run directory: what was published where."""


@dataclass(frozen=True)
class Publication:
    """One stage at its place."""

    stage: str
    repository: str
    private: bool
    revision: str
    folder: str
    """Inside the repository; empty for all of it."""
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
    proposal: str | None = None
    """Address of the pull request, where the change is only proposed."""


@dataclass(frozen=True)
class Parcel:
    """A stage, ready to be sent."""

    stage: Finished
    place: Place
    staged: Staged
    publication: Publication


def publish(
    run: Path,
    how: Publishing | None = None,
    *,
    own: Own | None = None,
    dry_run: bool = False,
    secrets: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    api: "HfApi | None" = None,
) -> list[Publication]:
    """Publish the current results of the named stages, or of all that can be, parents first.

    `own` has the results of one recipe, where they are meant and not what the run's links point to. The token comes from the Hub client's own
    places. `secrets` are values that must not leave this machine (`secret_values(os.environ)`).
    `say` gets a line for each thing that happens; `api` is another client than the one that the environment names.

    Raises:
        PublishError: what is wrong and what to do; a rerun goes on.
        StoreError: the run directory is damaged.
    """
    how = how or Publishing()
    chosen = together(finished(Run(run, own), how.stages), how.stages, say)
    with _workplace(run) as folder:
        remote = None if dry_run else Remote(api, say)
        namespace = _namespace(how, remote)
        notes = check_licences(chosen, how, remote.licence if remote else None)
        where = places(run, namespace, chosen, how)
        links = {**_recorded(run, remote.endpoint if remote else None), **where}
        # All folders are made and searched before the first byte is sent.
        parcels = [_parcel(stage, folder, where[stage.fingerprint], links, how, notes, secrets) for stage in chosen]
        index = _index(chosen[0].run, folder, parcels, links, how, secrets)
        if remote is None:
            return [parcel.publication for parcel in parcels]
        done = [_send(remote, parcel, how) for parcel in parcels]
        if index is not None:
            _send_index(remote, parcels[0].place.repository, index)
        if how.collection:
            told: dict[str, str] = {}
            for parcel, one in zip(parcels, done, strict=True):
                told.setdefault(one.repository, f"Stage {parcel.stage.name} ({parcel.stage.kind})")
            say(remote.collect(how.name or run.resolve().name, namespace, private=how.private, notes=told))
        return done


def _namespace(how: Publishing, remote: Remote | None) -> str:
    if remote is None:
        return how.owner or YOU
    account = remote.account()
    namespace = how.owner or account.name
    if namespace not in (account.name, *account.organisations):
        raise ChoiceError(
            f"{account.name} may not publish under '{namespace}' (may under: {', '.join((account.name, *account.organisations))})"
        )
    return namespace


@contextmanager
def _workplace(run: Path) -> Iterator[Path]:
    """An empty folder inside the run, on the same disk so that weights need no copy. One publication of a run at a time."""
    with (run / ".publish.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{run} is being published by another process") from error
        for left in run.glob(".publish-*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=run) as name:
            yield Path(name)


def _parcel(
    stage: Finished,
    folder: Path,
    place: Place,
    links: Mapping[str, Place],
    how: Publishing,
    notes: Sequence[str],
    secrets: Sequence[str],
) -> Parcel:
    """The clean folder of a stage, with its card, searched for secrets."""
    root = folder / stage.name
    staged = stage_files(stage, root / place.folder, links)
    card = write_card(stage, place, links, licence=how.license, base=base_of(stage, links), notes=notes)
    (staged.folder / "README.md").write_text(card, encoding="utf-8")
    refuse_secrets(root, secrets)
    # In a shared repository the same tag would name every stage's state.
    tag = f"{stage.name}-{how.tag}" if how.tag and how.layout != "repositories" else how.tag
    publication = Publication(
        stage.name, place.repository, how.private, place.revision, place.folder, tag, sizes(root), card, staged.left_out, tuple(notes)
    )
    return Parcel(stage, place, replace(staged, folder=root), publication)


def _index(
    run: Run, folder: Path, parcels: Sequence[Parcel], links: Mapping[str, Place], how: Publishing, secrets: Sequence[str]
) -> Path | None:
    """A folder with the page of the family, where one repository holds it all: of what is sent now, and what lies there already."""
    repository = parcels[0].place.repository
    if how.layout == "repositories" or how.pull_request:
        return None
    known = {one.fingerprint: one for one in finished(run, ())}
    here = [(known[print_], place) for print_, place in links.items() if place.repository == repository and print_ in known]
    order = list(known)
    page = family_card(sorted(here, key=lambda one: order.index(one[0].fingerprint)), links, how.license)
    root = folder / ".family"
    root.mkdir()
    (root / "README.md").write_text(page, encoding="utf-8")
    refuse_secrets(root, secrets)
    return root


def _send_index(remote: Remote, repository: str, folder: Path) -> None:
    if remote.changed(repository, folder, MAIN, ".family"):
        remote.upload(repository, folder, revision=MAIN, message="Page of the family", inside=".family")


def _send(remote: Remote, parcel: Parcel, how: Publishing) -> Publication:
    """One stage at its place, from the creation of the repository to the note in the run."""
    one, stage, folder = parcel.publication, parcel.stage, parcel.staged.folder
    remote.say(f"{parcel.place}: {'private' if one.private else 'public'}, {len(one.files)} files, {sum(one.files.values()):,} bytes")
    notes = remote.ensure(one.repository, private=one.private, revision=one.revision)
    message = f"Stage {stage.name} of run {stage.run.path.resolve().name}, fingerprint {stage.fingerprint}"
    branch = (remote.proposed(one.repository, message) if how.pull_request else None) or one.revision
    changed = remote.changed(one.repository, folder, branch, one.folder)
    head = remote.head(one.repository, branch)
    if one.tag and (tagged := remote.tagged(one.repository, one.tag)) and (changed or tagged != head):
        raise PublishError(  # other stages may have been sent before
            f"{one.repository}: tag {one.tag} names an earlier state ({tagged[:10]}); choose another tag, tags are never moved"
        )
    before = _record(stage.run).get(_key(remote, one), {}).get("commit")
    if changed and before and before != head and not parcel.place.is_shared and not how.pull_request:
        notes.append(
            f"{one.repository} has changed since this run was last published there ({before[:10]}); its history keeps what is replaced"
        )
    commit, proposal = head, None
    if changed:
        propose = how.pull_request and branch == one.revision
        sent = remote.upload(one.repository, folder, revision=branch, message=message, inside=one.folder, propose=propose)
        commit, proposal = sent.commit, sent.proposal
    remote.verify(one.repository, folder, commit)
    if one.tag:
        remote.tag(one.repository, one.tag, commit)
    url = proposal or f"{remote.endpoint}/{one.repository}"
    done = replace(one, commit=commit, sent=changed, url=url, proposal=proposal, notes=(*one.notes, *notes))
    if not how.pull_request:  # what is only proposed is not there yet
        _note(remote, stage, done)
    return done


def _key(remote: Remote, one: Publication) -> str:
    return f"{remote.endpoint}/{one.repository}@{one.revision}{f'/{one.folder}' if one.folder else ''}"


def _record(run: Run) -> dict[str, dict[str, Any]]:
    found = read_json(run.path / RECORD)
    return dict(found) if isinstance(found, dict) else {}


def _recorded(run: Path, endpoint: str | None) -> dict[str, Place]:
    """Places by fingerprint, as far as published to this Hub before."""
    return {
        str(entry["fingerprint"]): Place(str(entry["repository"]), str(entry.get("revision", MAIN)), str(entry.get("folder", "")))
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
        "folder": done.folder,
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
