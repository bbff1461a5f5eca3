"""Laws of the live page: on this machine only, always of the files as they are now."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.report import watch
from tests.pipeline.report import pretend


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    run = pretend.make_run(tmp_path)
    server = watch.server(run)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield run, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_the_live_page_may_ask_its_own_server_and_nothing_else(served: tuple[Path, int]) -> None:
    status, page = get(served[1], "/")
    assert status == 200
    assert "connect-src &#39;self&#39;" in page
    assert "<body data-live>" in page


def test_a_port_that_is_taken_is_told(served: tuple[Path, int]) -> None:
    run, port = served
    with pytest.raises(RecipeError, match=rf"nothing can listen on 127\.0\.0\.1:{port} \(Address already in use\); choose another --port"):
        watch.serve(run, port)


def test_the_version_changes_when_the_runs_files_do(served: tuple[Path, int]) -> None:
    run, port = served
    before = get(port, "/version")[1]
    assert get(port, "/version")[1] == before
    with (run / "base" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 400, "loss": 1.0}\n')
    assert get(port, "/version")[1] != before


def test_no_other_path_and_no_other_host_is_answered(served: tuple[Path, int]) -> None:
    assert get(served[1], "/../recipe.yaml")[0] == 404
    assert get(served[1], "/", host="evil.example")[0] == 403


def test_serving_ends_quietly_with_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    assert watch.serve(pretend.make_run(tmp_path)) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out
