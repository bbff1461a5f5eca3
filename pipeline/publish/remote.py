"""The Hub as publishing needs it: a few steps of the real client, tried again where that helps, explained where it does not.

The client retries single requests, but not the commit itself, nor what comes before the first upload. Every step here may be repeated:
what is there already is not sent again.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.secrets import redact
from pipeline.publish.errors import PublishError
from pipeline.publish.files import WEIGHTS
from pipeline.publishing import MAIN

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

ATTEMPTS = 4
LONGEST_WAIT = 300.0
"""Seconds; a server that asks for more is not waited for."""
TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Account:
    """Who publishes."""

    name: str
    role: str
    organisations: tuple[str, ...]


@dataclass(frozen=True)
class Sent:
    """What one upload left."""

    commit: str
    proposal: str | None = None
    """Address of the pull request, where the change was only proposed."""


class Remote:
    """One Hub, through the real client."""

    def __init__(self, api: "HfApi | None" = None, say: Callable[[str], None] = lambda _: None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        self.api, self.say = api or HfApi(), say

    @property
    def endpoint(self) -> str:
        return str(self.api.endpoint)

    def account(self) -> Account:
        """Who the token belongs to. Raises PublishError if there is none, it is wrong, or it may only read."""
        from huggingface_hub import get_token

        if not (self.api.token or get_token()):
            raise PublishError("there is no Hub token: run `hf auth login`, or set HF_TOKEN, with a token that may write")
        found = self._step("asking who the token belongs to", "", self.api.whoami)
        token = (found.get("auth") or {}).get("accessToken") or {}
        account = Account(str(found["name"]), str(token.get("role", "")), tuple(str(org["name"]) for org in found.get("orgs", [])))
        if account.role == "read":
            raise PublishError(
                f"the token of {account.name} may only read: make one with the right to write, and log in with it (`hf auth login`)"
            )
        return account

    def ensure(self, repository: str, *, private: bool, revision: str) -> list[str]:
        """Create the repository and the branch where they are missing; returns notes."""
        self._step("creating", repository, lambda: self.api.create_repo(repository, private=private, exist_ok=True))
        is_private = bool(self._step("looking at", repository, lambda: self.api.model_info(repository)).private)
        if private and not is_private:
            raise PublishError(
                f"{repository} exists and is public; publish with --public if that is meant, or make it private in its settings"
            )
        if revision != MAIN:
            self._step("branching", repository, lambda: self.api.create_branch(repository, branch=revision, exist_ok=True))
        return (
            [f"{repository} stays private; make it public in its settings when you have looked at it"] if is_private and not private else []
        )

    def licence(self, repository: str, revision: str | None) -> str | None:
        """What the card of a model says of its licence."""
        data = self._step("reading", repository, lambda: self.api.model_info(repository, revision=revision)).card_data
        return str(data.get("license") or "") or None if data else None

    def proposed(self, repository: str, title: str) -> str | None:
        """The branch of an open pull request of that title."""

        def look() -> str | None:
            found = self.api.get_repo_discussions(repository, discussion_type="pull_request", discussion_status="open")
            return next((str(one.git_reference) for one in found if one.title == title), None)

        return self._step("listing pull requests of", repository, look)

    def changed(self, repository: str, folder: Path, revision: str, inside: str = "") -> tuple[str, ...]:
        """Files of the folder that the repository does not hold with this content, and weights of its own that the folder does not have.

        `inside` is the only part of the repository that the folder's files stand for.
        """
        check = self._step("comparing", repository, lambda: self.api.verify_repo_checksums(repository, revision=revision, local_dir=folder))
        ours = [name for name in check.missing_paths if name.startswith(f"{inside}/" if inside else "")]
        stale = [name for name in ours if any(Path(name).match(pattern) for pattern in WEIGHTS)]
        return tuple(sorted([*(one["path"] for one in check.mismatches), *check.extra_paths, *stale]))

    def tagged(self, repository: str, tag: str) -> str | None:
        """The commit that a tag names."""
        refs = self._step("listing references of", repository, lambda: self.api.list_repo_refs(repository))
        commit = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
        # An annotated tag may be listed by its own object, not by its commit.
        return commit and str(self._step("reading", repository, lambda: self.api.model_info(repository, revision=tag)).sha)

    def head(self, repository: str, revision: str) -> str:
        return str(self._step("reading", repository, lambda: self.api.model_info(repository, revision=revision)).sha)

    def upload(self, repository: str, folder: Path, *, revision: str, message: str, inside: str = "", propose: bool = False) -> Sent:
        """Send the folder as one state of the branch, or as a new pull request. Fails if somebody else writes at the same time."""

        def attempt() -> Sent:
            if propose and (proposal := self._proposal(repository, message)):  # an answer that was lost on its way
                return proposal
            parent = str(self.api.model_info(repository, revision=revision).sha)
            commit = self.api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message,
                parent_commit=parent,
                delete_patterns=[f"{inside}/{pattern}" if inside else pattern for pattern in WEIGHTS],
                create_pr=propose,
            )
            return Sent(str(commit.oid), str(commit.pr_url) if commit.pr_url else None)

        return self._step("sending files to", repository, attempt)

    def _proposal(self, repository: str, title: str) -> Sent | None:
        reference = self.proposed(repository, title)
        if reference is None:
            return None
        number = reference.rpartition("/")[2]
        return Sent(self.head(repository, reference), f"{self.endpoint}/{repository}/discussions/{number}")

    def verify(self, repository: str, folder: Path, commit: str) -> None:
        """Raises PublishError unless the commit holds every file of the folder, bit for bit."""
        check = self._step("checking", repository, lambda: self.api.verify_repo_checksums(repository, revision=commit, local_dir=folder))
        wrong = [*(one["path"] for one in check.mismatches), *check.extra_paths]
        if wrong:
            raise PublishError(f"{repository} at {commit[:10]} does not hold what was sent: {', '.join(sorted(wrong))}; publish again")

    def tag(self, repository: str, tag: str, commit: str) -> None:
        self._step("tagging", repository, lambda: self.api.create_tag(repository, tag=tag, revision=commit, exist_ok=True))
        if (found := self.tagged(repository, tag)) != commit:
            raise PublishError(f"{repository}: tag {tag} names {str(found)[:10]}, not {commit[:10]}; choose another tag")

    def collect(self, title: str, namespace: str, *, private: bool, notes: Mapping[str, str]) -> str:
        """Gather repositories, in order, in a collection that is made where it is missing; returns its address."""
        what = f"{namespace}/{title}"
        collection = self._step(
            "gathering", what, lambda: self.api.create_collection(title, namespace=namespace, private=private, exists_ok=True)
        )
        for repository, note in notes.items():
            if repository not in [item.item_id for item in collection.items]:
                add = partial(self.api.add_collection_item, collection.slug, repository, "model", note=note, exists_ok=True)
                self._step("gathering", repository, add)
        return str(collection.url)

    def _step(self, doing: str, repository: str, call: Callable[[], T]) -> T:
        what = f"{doing} {repository}".strip()
        for number in range(1, ATTEMPTS + 1):
            try:
                return call()
            except PublishError:
                raise
            except Exception as error:
                wait = _wait(error, number)
                if wait is None or number == ATTEMPTS:
                    raise PublishError(explained(error, what, repository, tries=number)) from None
                self.say(f"{what}: {_short(error)}; again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: the client wraps failures of large files in RuntimeError."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _response(error: BaseException) -> Any:
    answers = (getattr(one, "response", None) for one in _causes(error))
    return next((answer for answer in answers if answer is not None), None)


def _wait(error: BaseException, number: int) -> float | None:
    """Seconds to wait before another attempt; None if another attempt would end the same."""
    response = _response(error)
    if response is not None:
        if response.status_code not in TRANSIENT:
            return None
        wait = _asked(response.headers)
        wait = 2.0**number if wait is None else wait
        return wait if wait <= LONGEST_WAIT else None
    import httpx2

    passing = (OSError, httpx2.TransportError, json.JSONDecodeError)
    return 2.0**number if any(isinstance(one, passing) for one in _causes(error)) else None


def _asked(headers: Any) -> float | None:
    """Seconds that the server asks for: by `Retry-After`, or by its rate limit's window (`"api";r=0;t=55`)."""
    after, limit = str(headers.get("Retry-After", "")), re.search(r"\br=0\b.*\bt=(\d+)", str(headers.get("ratelimit", "")))
    return float(after) if after.isdecimal() else float(limit[1]) if limit else None


def explained(error: BaseException, what: str, repository: str, *, tries: int) -> str:
    """One failure as a sentence for the person who reads it: what happened, and what to do."""
    response = _response(error)
    status = response.status_code if response is not None else None
    namespace = repository.split("/")[0]
    again = "what was sent is kept: publish again to go on"
    known = {
        400: f"the Hub refused the request ({_short(error)})",
        401: "the Hub does not accept the token (wrong, expired or revoked): log in again with `hf auth login`, then publish again",
        403: f"the token may not write under {namespace}: give it that right, or choose another owner",
        404: f"{repository} is not there, or the token may not see it",
        409: "another change of this repository is under way: wait a little, then publish again",
        412: "somebody else changed the repository at the same time: publish again",
        413: f"a file is larger than the Hub takes ({_short(error)})",
        429: f"too many requests for this account: wait, then publish again ({again})",
    }
    if status in known:
        return f"{what}: {known[status]}"
    if status is not None and status >= 500:
        return f"{what}: the Hub answered {status}, {tries} times; {again}"
    if status is None and tries > 1:
        return f"{what}: no connection, {tries} times ({_short(error)}); {again}"
    return f"{what}: {_short(error)}"


def _short(error: BaseException) -> str:
    response = _response(error)
    message = response.headers.get("X-Error-Message") if response is not None else None
    text = message or (f"HTTP {response.status_code}" if response is not None else "") or str(error) or type(error).__name__
    return redact(" ".join(str(text).split()))[:200]
