"""The report of a run that goes on, served on this machine only; the open page loads itself again when the run's files change."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.report.page import render
from pipeline.report.reading import read_run

LOOPBACK = "127.0.0.1"


def serve(folder: Path, port: int = 0) -> int:
    """Serve until Ctrl-C. Raises RecipeError if the folder is no run, or the port is taken."""
    read_run(folder)
    try:
        listening = server(folder, port)
    except OSError as error:
        raise RecipeError(f"nothing can listen on {LOOPBACK}:{port} ({error.strerror}); choose another --port, or leave it out") from error
    with listening:
        print(f"http://{LOOPBACK}:{listening.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of one run's page, bound to the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A name other than the loopback's is another site's page asking through this browser (DNS rebinding).
            if self.headers.get("Host", "").rpartition(":")[0] not in (LOOPBACK, "localhost"):
                self.send_error(403)
            elif self.path == "/":
                self._answer(render(read_run(folder), live=True), "text/html; charset=utf-8")
            elif self.path == "/version":
                self._answer(version(folder), "text/plain")
            else:
                self.send_error(404)

        def _answer(self, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(200)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: a line every three seconds tells nothing."""

    return ThreadingHTTPServer((LOOPBACK, port), Handler)


def version(folder: Path) -> str:
    """Changes when the page would: when one of the files that it reads does."""
    watched = [
        *folder.glob("*/metrics.jsonl"),
        *folder.glob("*/manifest.json"),
        *folder.glob("*/attempts/*/exit.json"),
        *folder.glob("*/job.json"),
    ]
    return str(max((path.stat().st_mtime_ns for path in watched if path.exists()), default=0) + len(watched))
