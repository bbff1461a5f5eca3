"""What the test Hub remembers of one repository: commits, references and blobs, with the checks that a real Hub makes before it believes a client."""

import base64
import binascii
import fnmatch
import hashlib
from dataclasses import dataclass, field
from typing import Any

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet", "*.gz", "*.zst", "*.npy", "*.npz", "*.gguf", "*.model", "*.arrow")
REGULAR_LIMIT = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class RefusedError(Exception):
    """The Hub says no: status, message, and the code by which the client picks its exception class."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_oid(content: bytes) -> str:
    """The name git gives a blob."""
    return hashlib.sha1(b"blob %d\x00" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Blob:
    """One version of a file: its bytes for a regular one, its SHA-256 for a large one."""

    size: int
    sha256: str
    content: bytes | None
    """None for a large file, whose bytes lie in the object store."""
    xet_hash: str | None = None

    @property
    def is_lfs(self) -> bool:
        return self.content is None

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def oid(self) -> str:
        return git_oid(self.pointer if self.content is None else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    @staticmethod
    def regular(content: bytes) -> "Blob":
        return Blob(len(content), hashlib.sha256(content).hexdigest(), content)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    summary: str
    files: dict[str, Blob]


@dataclass
class Repository:
    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    """Of pull requests, by reference."""

    def __post_init__(self) -> None:
        self.branches["main"] = self._add(None, "initial commit", {".gitattributes": Blob.regular(GITATTRIBUTES)})

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a pull request or an oid (also a short one) names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or self.pull_requests.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def upload_mode(self, path: str, size: int, sample: bytes) -> str:
        is_large = size > REGULAR_LIMIT or b"\x00" in sample or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)
        return "lfs" if is_large and size > 0 else "regular"

    def commit(self, revision: str, lines: list[dict[str, Any]], objects: "Objects", *, pull_request: bool) -> tuple[Commit, str | None]:
        """Apply one commit of the NDJSON protocol; returns it, and the pull request's number if one was opened."""
        header, operations = _split(lines)
        parent = self.resolve(revision)
        wanted = header.get("parentCommit")
        if wanted is not None and not parent.oid.startswith(wanted):
            raise RefusedError(412, f"The expected parent commit is {wanted}, but {revision} is at {parent.oid}.")
        files = dict(parent.files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files, objects)
        oid = self._add(parent.oid, header["summary"], files)
        if pull_request:
            number = str(len(self.pull_requests) + 1)
            self.pull_requests[f"refs/pr/{number}"], self.titles[f"refs/pr/{number}"] = oid, header["summary"]
            return self.commits[oid], number
        references = self.pull_requests if revision in self.pull_requests else self.branches
        if revision not in references:
            raise RefusedError(400, f"{revision} is no branch")
        references[revision] = oid
        return self.commits[oid], None

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, Blob], objects: "Objects") -> None:
        path = _checked_path(value["path"])
        if key == "deletedFile":
            if path not in files:
                raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[path]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        elif key == "file":
            content = _decoded(value)
            if self.upload_mode(path, len(content), content[:512]) == "lfs":
                raise RefusedError(400, f"{path} must be sent as a large file")
            files[path] = Blob.regular(content)
        elif key == "lfsFile":
            if value.get("algo") != "sha256":
                raise RefusedError(400, "lfsFile needs algo sha256")
            files[path] = objects.blob(value["oid"], value["size"])
        else:
            raise RefusedError(400, f"unknown operation {key}")

    def _add(self, parent: str | None, summary: str, files: dict[str, Blob]) -> str:
        text = repr((self.id, parent, summary, len(self.commits), sorted((path, blob.oid) for path, blob in files.items())))
        oid = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = Commit(oid, parent, summary, files)
        return oid


class Objects:
    """The store of large files, by SHA-256. Takes nothing whose bytes do not hash to their name."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}

    def put(self, oid: str, content: bytes) -> None:
        found = hashlib.sha256(content).hexdigest()
        if found != oid:
            raise RefusedError(400, f"content hashes to {found}, not to {oid}")
        self.stored[oid] = content

    def has(self, oid: str, size: int) -> bool:
        return oid in self.stored and len(self.stored[oid]) == size

    def blob(self, oid: str, size: int) -> Blob:
        if not self.has(oid, size):
            raise RefusedError(400, f"LFS object {oid} of {size} bytes was not uploaded")
        return Blob(size, oid, None)

    def read(self, blob: Blob) -> bytes:
        return self.stored[blob.sha256] if blob.content is None else blob.content


def _split(lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not lines or lines[0].get("key") != "header":
        raise RefusedError(400, "the first line of a commit is its header")
    if not lines[0]["value"].get("summary"):
        raise RefusedError(400, "a commit needs a summary")
    paths = [line["value"]["path"] for line in lines[1:] if line["key"] in ("file", "lfsFile")]
    if len(paths) != len(set(paths)):
        raise RefusedError(400, "a path is written twice in one commit")
    return lines[0]["value"], lines[1:]


def _checked_path(path: str) -> str:
    if path.startswith("/") or any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
        raise RefusedError(400, f"invalid path {path!r}")
    return path


def _decoded(value: dict[str, Any]) -> bytes:
    if value.get("encoding") != "base64":
        raise RefusedError(400, "file content must be base64")
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error as error:
        raise RefusedError(400, f"{value['path']}: {error}") from error
