"""The test Hub on a loopback socket. Speaks the protocol of the Hugging Face Hub, so that the real client is what is tested.

with Server(tokens={"hf_test": Account("me")}) as server:
    HfApi(endpoint=server.url, token="hf_test").create_repo("me/model")
"""

import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.hub.faults import Fault, Seen
from tests.hub.hub import Account, Answer, Hub, Request
from tests.hub.repository import RefusedError, Repository

REPO = r"(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, str]] = [
    # method, path (still quoted, so that a branch with a slash is one segment), action; `!` needs the right to write
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("DELETE", r"/api/repos/delete", "delete"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/collections", "create_collection"),
    ("GET", r"/api/collections/(?P<slug>[^/]+/[^/]+)", "collection"),
    ("POST", r"/api/collections/(?P<slug>[^/]+/[^/]+)/items", "add_to_collection"),
    ("PUT", rf"/api/{REPO}/settings", "!settings"),
    ("GET", rf"/api/{REPO}", "info"),
    ("GET", rf"/api/{REPO}/revision/(?P<revision>[^/]+)", "info"),
    ("GET", rf"/api/{REPO}/refs", "refs"),
    ("GET", rf"/api/{REPO}/discussions", "discussions"),
    ("GET", rf"/api/{REPO}/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)", "tree"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", "tree"),
    ("POST", rf"/api/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "!preupload"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "!commit"),
    ("POST", rf"/api/{REPO}/tag/(?P<revision>[^/]+)", "!create_tag"),
    ("POST", rf"/api/{REPO}/branch/(?P<name_of_branch>[^/]+)", "!create_branch"),
    ("GET", rf"/api/{REPO}/xet-read-token/(?P<revision>[^/]+)", "xet_token"),
    ("GET", rf"/api/{REPO}/xet-write-token/(?P<revision>[^/]+)", "!xet_token"),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "!lfs_batch"),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/verify", "!lfs_verify"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/part/(?P<number>\d+)", "lfs_part"),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete", "lfs_complete"),
    ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
    ("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


def answer(hub: Hub, request: Request) -> Answer:
    """Route one request. HEAD is GET without a body."""
    method = "GET" if request.method == "HEAD" else request.method
    for wanted, pattern, action in ROUTES:
        match = re.fullmatch(pattern, request.path)
        if match and wanted == method:
            return _call(hub, request, action, {key: unquote(value) for key, value in match.groupdict().items()})
    match = re.fullmatch(rf"/api/{REPO}/(?P<what>tag|branch)/(?P<reference>[^/]+)", request.path)
    if match and method == "DELETE":
        repository = hub.writable(request, match["kind"], match["name"])
        return hub.remove(repository.tags if match["what"] == "tag" else repository.branches, unquote(match["reference"]))
    raise RefusedError(404, f"this Hub has no {request.method} {request.path}")


def _call(hub: Hub, request: Request, action: str, values: dict[str, str]) -> Answer:
    arguments: list[Any] = []
    if "name" in values:
        find = hub.writable if action.startswith("!") else hub.readable
        arguments.append(find(request, values.pop("kind", "model"), values.pop("name")))
    call = getattr(hub, action.removeprefix("!"))
    result: Answer = call(request, *arguments, *values.values())
    return result


class Server(Hub):
    """A Hub that listens. Notes every request in `seen`, and fails as `faults` say."""

    def __init__(self, tokens: dict[str, Account], **settings: Any) -> None:
        super().__init__(**settings)
        self.accounts = dict(tokens)
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, method: str, path: str, status: int | None = None, **how: Any) -> Fault:
        fault = Fault(method, path, status, **how)
        self.faults.append(fault)
        return fault

    def fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self.faults if fault.meets(request.method, request.path)), None)
            if fault and fault.revoke:
                self.accounts.clear()
            return fault

    def handle(self, request: Request) -> Answer:
        with self._lock:
            try:
                return answer(self, request)
            except RefusedError as no:
                headers = {"X-Error-Message": no.message.replace("\n", " "), **({"X-Error-Code": no.code} if no.code else {})}
                return Answer.of({"error": no.message}, no.status, **headers)

    def repository(self, name: str) -> Repository:
        return self.repositories["model", name]

    def content(self, name: str, path: str, revision: str = "main") -> bytes:
        """Bytes of a published file, as the Hub holds them."""
        return self.objects.read(self.repository(name).resolve(revision).files[path])

    def requests(self, method: str, path: str) -> list[Seen]:
        return [one for one in self.seen if one.method == method and re.search(path, one.path)]


class _CutError(Exception):
    """The plan says that the connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: with Nagle each answer would wait 40 ms for an acknowledgement
    hub: Server

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        head = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, b"")
        fault = self.hub.fault_for(head)
        try:
            body = self._body(fault.cut_request if fault else None)
            request = Request(head.method, head.path, head.query, headers, body)
            result = self._failure(fault) if fault and fault.status else self.hub.handle(request)
            # Noted before it is answered, so that a test that has the answer finds the note.
            self.hub.seen.append(Seen(head.method, head.path, head.query, headers, len(body), result.status))
            self._send(result, fault.cut_response if fault else None)
        except _CutError:
            if fault and fault.then:
                fault.then()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _failure(self, fault: Fault) -> Answer:
        return Answer.of({"error": "planned fault"}, fault.status or 500, **fault.headers)

    def _body(self, cut: int | None) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if cut is not None and cut < length:
            self.rfile.read(cut)
            raise _CutError
        return self.rfile.read(length)

    def _send(self, result: Answer, cut: int | None) -> None:
        self.send_response(result.status)
        for key, value in {**result.headers, "Content-Length": str(len(result.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(result.body if cut is None else result.body[:cut])
            self.wfile.flush()
        if cut is not None:
            raise _CutError

    def log_message(self, format: str, *args: Any) -> None:
        pass
