"""The test Hub's rules, without HTTP: who may do what, and what each request answers. `server.py` puts it on a socket."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.hub.card_rules import REPO_ID, front_matter, problems
from tests.hub.collection import Collection
from tests.hub.repository import Blob, Objects, RefusedError, Repository
from tests.hub.xet import XetStore


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to, and what it may do."""

    name: str
    role: str = "write"
    organisations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organisations


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise RefusedError(400, f"invalid JSON: {error}") from error


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> "Answer":
        return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


class Hub:
    """Accounts, repositories and objects."""

    url = ""

    def __init__(self, xet: Path | None = None, page_size: int = 50, multipart_above: int = 1 << 40, chunk_size: int = 1 << 20) -> None:
        self.accounts: dict[str, Account] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, Collection] = {}
        self.objects = Objects()
        self.xet = XetStore(xet) if xet else None
        self.page_size, self.multipart_above, self.chunk_size = page_size, multipart_above, chunk_size

    # Who asks

    def account(self, request: Request) -> Account | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        account = self.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return account

    def readable(self, request: Request, kind: str, name: str) -> Repository:
        account = self.account(request)
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and not (account and account.owns(repository.owner))):
            raise RefusedError(404 if account else 401, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, request: Request, kind: str, name: str) -> Repository:
        repository = self.readable(request, kind, name)
        self.may_write(request, repository.owner)
        return repository

    def may_write(self, request: Request, namespace: str) -> Account:
        account = self.account(request)
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        if account.role not in ("write", "admin"):
            raise RefusedError(403, "You don't have the required permissions: this token is read-only")
        if not account.owns(namespace):
            raise RefusedError(403, f'You don\'t have the rights to create or change a model under the namespace "{namespace}"')
        return account

    # What is asked

    def whoami(self, request: Request) -> Answer:
        account = self.account(request)
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organisations]
        token = {"displayName": "test", "role": account.role}
        return Answer.of(
            {"type": "user", "name": account.name, "orgs": organisations, "auth": {"type": "access_token", "accessToken": token}}
        )

    def create(self, request: Request) -> Answer:
        asked = request.json()
        account = self.account(request)
        namespace = asked.get("organization") or (account.name if account else "")
        self.may_write(request, namespace)
        kind, name = asked.get("type", "model"), f"{namespace}/{asked['name']}"
        if not REPO_ID.match(name):
            raise RefusedError(400, f"{name} is no repository id")
        answer = {"url": f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name}
        if (kind, name) in self.repositories:
            return Answer.of({"error": f"You already created this {kind} repo", **answer}, 409)
        self.repositories[kind, name] = Repository(kind, name, private=asked.get("visibility") == "private")
        return Answer.of(answer)

    def validate_yaml(self, request: Request) -> Answer:
        errors, warnings = problems(request.json()["content"])
        found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return Answer.of(found, 400 if errors else 200)

    def settings(self, request: Request, repository: Repository) -> Answer:
        asked = request.json()
        repository.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        return Answer.of({})

    def delete(self, request: Request) -> Answer:
        asked = request.json()
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        del self.repositories[asked.get("type", "model"), self.writable(request, asked.get("type", "model"), name).id]
        return Answer.of({})

    def create_collection(self, request: Request) -> Answer:
        asked = request.json()
        self.may_write(request, asked["namespace"])
        slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
        if slug in self.collections:
            return Answer.of({"error": "You already have a collection with this title", "slug": slug}, 409)
        self.collections[slug] = Collection(slug, asked["title"], asked["namespace"], asked["private"], asked.get("description", ""))
        return Answer.of(self.collections[slug].shown())

    def collection(self, request: Request, slug: str) -> Answer:
        account, found = self.account(request), self.collections.get(slug)
        if found is None or (found.private and not (account and account.owns(found.owner))):
            raise RefusedError(404, "Collection not found")
        return Answer.of(found.shown())

    def add_to_collection(self, request: Request, slug: str) -> Answer:
        found = self.collections.get(slug)
        if found is None:
            raise RefusedError(404, "Collection not found")
        self.may_write(request, found.owner)
        self.readable(request, "model", request.json()["item"]["id"])
        found.add(request.json())
        return Answer.of(found.shown())

    # References

    def refs(self, request: Request, repository: Repository) -> Answer:
        def entries(kind: str, references: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in references.items()]

        pulls = [{"name": ref, "ref": ref, "targetCommit": oid} for ref, oid in repository.pull_requests.items()]
        found = {"branches": entries("heads", repository.branches), "tags": entries("tags", repository.tags), "converts": []}
        return Answer.of({**found, "pullRequests": pulls} if request.query.get("include_prs") else found)

    def create_tag(self, request: Request, repository: Repository, revision: str) -> Answer:
        return self._point(repository.tags, request.json()["tag"], repository.resolve(revision).oid)

    def create_branch(self, request: Request, repository: Repository, name: str) -> Answer:
        return self._point(repository.branches, name, repository.resolve(request.json().get("startingPoint") or "main").oid)

    def _point(self, references: dict[str, str], name: str, oid: str) -> Answer:
        if name in references:
            raise RefusedError(409, f"Reference {name} already exists")
        references[name] = oid
        return Answer.of({})

    def remove(self, references: dict[str, str], name: str) -> Answer:
        if references.pop(name, None) is None:
            raise RefusedError(404, f"{name} not found", "RevisionNotFound")
        return Answer.of({})

    def discussions(self, request: Request, repository: Repository) -> Answer:
        """Pull requests, which are the only discussions of this Hub."""
        found = [
            {
                "num": int(reference.rpartition("/")[2]),
                "title": repository.titles[reference],
                "status": "open",
                "author": {"name": repository.owner},
                "repo": {"name": repository.id, "type": "model"},
                "isPullRequest": True,
                "createdAt": "2026-01-01T00:00:00.000Z",
            }
            for reference in repository.pull_requests
        ]
        return Answer.of({"discussions": found, "count": len(found), "start": 0})

    # Reading

    def info(self, request: Request, repository: Repository, revision: str = "main") -> Answer:
        commit = repository.resolve(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        basics = {
            "_id": repository.id,
            "id": repository.id,
            "modelId": repository.id,
            "author": repository.owner,
            "tags": [],
            "downloads": 0,
        }
        card = commit.files.get("README.md")
        head = front_matter((card.content or b"").decode()) if card else None
        told = {"cardData": head} if head else {}
        return Answer.of({**basics, **told, "sha": commit.oid, "private": repository.private, "siblings": siblings})

    def commits(self, request: Request, repository: Repository, revision: str) -> Answer:
        found, oid = [], repository.resolve(revision).oid
        while oid:
            commit = repository.commits[oid]
            found.append({"id": oid, "title": commit.summary, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"})
            oid = commit.parent or ""
        return Answer.of(found)

    def tree(self, request: Request, repository: Repository, revision: str, folder: str = "") -> Answer:
        commit = repository.resolve(revision)
        inside = {path: blob for path, blob in commit.files.items() if path.startswith(f"{folder}/" if folder else "")}
        if folder and not inside:
            raise RefusedError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = _tree_entries(inside, folder, recursive=request.query.get("recursive", "").lower() in ("1", "true"))
        start = int(request.query.get("cursor", 0))
        page = entries[start : start + self.page_size]
        if start + self.page_size >= len(entries):
            return Answer.of(page)
        query = "&".join(f"{key}={quote(value)}" for key, value in {**request.query, "cursor": str(start + self.page_size)}.items())
        return Answer.of(page, Link=f'<{self.url}{quote(request.path)}?{query}>; rel="next"')

    def paths_info(self, request: Request, repository: Repository, revision: str) -> Answer:
        from urllib.parse import parse_qs

        form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        paths = parse_qs(request.body.decode()).get("paths", []) if form else request.json()["paths"]
        files = repository.resolve(revision).files
        return Answer.of([_file_entry(path, files[path]) for path in paths if path in files])

    def resolve(self, request: Request, repository: Repository, revision: str, path: str) -> Answer:
        commit = repository.resolve(revision)
        if path not in commit.files:
            raise RefusedError(404, f"{path} does not exist in {revision}", "EntryNotFound")
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if not blob.is_lfs:
            return ranged(request, blob.content or b"", headers)
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "Location": f"{self.cdn_url}/cdn/{blob.sha256}"}
        if blob.xet_hash:
            route = f"{self.url}/api/{repository.kind}s/{repository.id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
        return Answer(b"", 302, headers)

    @property
    def cdn_url(self) -> str:
        """The same server under another host name, because the client follows redirects within the Hub's own host by itself."""
        return self.url.replace("127.0.0.1", "localhost")

    def cdn(self, request: Request, oid: str) -> Answer:
        self._unsigned(request)
        stored = self.objects.stored.get(oid)
        if stored is None:
            raise RefusedError(404, "no such object")
        return ranged(request, stored, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    # Writing

    def preupload(self, request: Request, repository: Repository, revision: str) -> Answer:
        import base64

        asked = request.json()["files"]
        if len(asked) > 256:
            raise RefusedError(413, "at most 256 files")
        commit, answers = repository.resolve(revision), []
        for one in asked:
            mode = repository.upload_mode(one["path"], one["size"], base64.b64decode(one["sample"], validate=True))
            answer: dict[str, Any] = {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}
            if one["path"] in commit.files:
                answer["oid"] = commit.files[one["path"]].etag
            answers.append(answer)
        return Answer.of({"files": answers, "commitOid": commit.oid})

    def lfs_batch(self, request: Request, repository: Repository) -> Answer:
        asked = request.json()
        if asked.get("operation") != "upload" or asked.get("hash_algo") != "sha256":
            raise RefusedError(422, "only uploads by sha256")
        return Answer.of(
            {"transfer": "basic", "objects": [self._lfs_object(repository, one["oid"], one["size"]) for one in asked["objects"]]}
        )

    def _lfs_object(self, repository: Repository, oid: str, size: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if self.objects.has(oid, size):
            return answer
        verify = {"href": f"{self.url}/{repository.id}.git/info/lfs/verify"}
        if size <= self.multipart_above:
            return {**answer, "actions": {"upload": {"href": f"{self.url}/lfs/{oid}"}, "verify": verify}}
        parts = {str(n): f"{self.url}/lfs/{oid}/part/{n}" for n in range(1, math.ceil(size / self.chunk_size) + 1)}
        upload = {"href": f"{self.url}/lfs/{oid}/complete", "header": {"chunk_size": str(self.chunk_size), **parts}}
        return {**answer, "actions": {"upload": upload, "verify": verify}}

    def lfs_put(self, request: Request, oid: str) -> Answer:
        self._unsigned(request)
        self.objects.put(oid, request.body)
        return Answer()

    def lfs_part(self, request: Request, oid: str, number: str) -> Answer:
        self._unsigned(request)
        self.objects.parts[oid, int(number)] = request.body
        return Answer(headers={"ETag": f'"{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"'})

    def lfs_complete(self, request: Request, oid: str) -> Answer:
        content = b""
        for part in request.json()["parts"]:
            body = self.objects.parts[oid, part["partNumber"]]
            if part["etag"].strip('"') != hashlib.md5(body, usedforsecurity=False).hexdigest():
                raise RefusedError(400, "a part's ETag does not fit")
            content += body
        self.objects.put(oid, content)
        return Answer.of({})

    def lfs_verify(self, request: Request, repository: Repository) -> Answer:
        asked = request.json()
        if not self.objects.has(asked["oid"], asked["size"]):
            raise RefusedError(404, "object is not there, or has another size")
        return Answer.of({})

    def _unsigned(self, request: Request) -> None:
        if "authorization" in request.headers:
            raise RefusedError(400, "an object store takes either a signed address or a token, never both")

    def commit(self, request: Request, repository: Repository, revision: str) -> Answer:
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        self._take_from_xet(lines)
        pull_request = request.query.get("create_pr") == "1"
        commit, number = repository.commit(revision, lines, self.objects, pull_request=pull_request)
        if self.xet:
            known = self.xet.hashes()
            for path, blob in commit.files.items():
                if blob.is_lfs and blob.sha256 in known:
                    commit.files[path] = Blob(blob.size, blob.sha256, None, known[blob.sha256])
        url = f"{self.url}/{repository.id}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}", "hookOutput": ""}
        return Answer.of({**answer, "pullRequestUrl": f"{url}/discussions/{number}"} if number else answer)

    def _take_from_xet(self, lines: list[dict[str, Any]]) -> None:
        """Large files that came over Xet lie in its content store: rebuild their bytes, so that the same checks hold for both ways."""
        wanted = {line["value"]["oid"]: line["value"]["size"] for line in lines if line.get("key") == "lfsFile"}
        missing = {oid: size for oid, size in wanted.items() if oid not in self.objects.stored}
        if self.xet and missing:
            for oid, content in self.xet.read(missing).items():
                self.objects.put(oid, content)

    def xet_token(self, request: Request, repository: Repository, revision: str) -> Answer:
        if self.xet is None:
            raise RefusedError(404, "this Hub has no Xet")
        repository.resolve(revision)
        token, expires = "xet-token", 4_000_000_000
        headers = {"X-Xet-Cas-Url": self.xet.url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
        return Answer.of({"casUrl": self.xet.url, "accessToken": token, "exp": expires}, **headers)


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """The whole, or the one range asked for."""
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    if not wanted:
        return Answer(content, 200, headers)
    first, _, last = wanted.partition("-")
    start, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
    if start >= len(content):
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(content)}"})
    return Answer(content[start : end + 1], 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"})


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.is_lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return {**entry, "xetHash": blob.xet_hash} if blob.xet_hash else entry


def _tree_entries(files: dict[str, Blob], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    depth = len(folder.split("/")) if folder else 0
    folders = sorted({"/".join(path.split("/")[:n]) for path in files for n in range(depth + 1, path.count("/") + 1)})
    entries = [
        {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(), "size": 0}
        for path in folders
    ]
    entries += [_file_entry(path, blob) for path, blob in sorted(files.items())]
    return entries if recursive else [entry for entry in entries if entry["path"].count("/") == depth]
