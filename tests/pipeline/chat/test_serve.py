"""`pipeline serve` as it is typed: what it prints is done, and answers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.chat import serve
from pipeline.errors import RecipeError
from tests.pipeline.chat import tiny_run

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    "engine",
    [
        "transformers",
        pytest.param(
            "vllm",
            marks=pytest.mark.skipif(
                shutil.which("vllm") is None, reason="vLLM is not installed; it wants an environment of its own, and mostly a GPU"
            ),
        ),
    ],
)
def test_the_request_that_is_printed_works(tmp_path: Path, engine: str) -> None:
    run, port = tiny_run.make(tmp_path), free_port()
    names = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    names |= {"CUDA_VISIBLE_DEVICES": ""} if engine == "transformers" else {}
    command = [sys.executable, "-m", "pipeline", "serve", str(run), "policy", "--port", str(port), "--engine", engine]
    server = subprocess.Popen(command, cwd=ROOT, env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "policy answers; ask it:\n"
        server.stdout.readline()
        line = server.stdout.readline().strip()
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=True)  # noqa: S602 - as a user pastes it
        answer = json.loads(done.stdout)
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["usage"]["completion_tokens"] > 0
        other = line.replace(str((run / "policy").resolve()), str((run / "base").resolve())).replace('"policy"', '"base"')
        refused = subprocess.run(other, shell=True, capture_output=True, text=True, timeout=120, check=True)  # noqa: S602
        assert "choices" not in json.loads(refused.stdout), "no request makes it load another model"
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors


def test_what_is_missing_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RecipeError, match=r"uvicorn must be installed to serve: pip install 'recipe-pipeline\[serve\]'"):
        serve.command("auto", "chat", tmp_path, "127.0.0.1", 8000)
    with pytest.raises(RecipeError, match="vLLM is not installed"):
        serve.command("vllm", "chat", tmp_path, "127.0.0.1", 8000)


def test_vllm_serves_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
    argv = serve.command("auto", "chat", tmp_path, "127.0.0.1", 8000)
    assert argv[:5] == ["/opt/vllm", "serve", str(tmp_path), "--served-model-name", "chat"]
    assert "transformers.cli.transformers" in serve.command("transformers", "chat", tmp_path, "127.0.0.1", 8000)


def test_a_port_that_is_taken_and_an_adapter_alone_are_refused_at_once(tmp_path: Path) -> None:
    run = tiny_run.make(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RecipeError, match="choose another --port"):
            serve.main([str(run), "base", "--port", str(taken.getsockname()[1])])
    (run / "policy" / "artifact" / "config.json").rename(run / "policy" / "artifact" / "adapter_config.json")
    with pytest.raises(RecipeError, match="first: pipeline export"):
        serve.main([str(run), "policy"])


def test_a_text_model_is_asked_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "/v1/completions" in serve.request("base", tmp_path, "0.0.0.0", 80)  # noqa: S104
    assert "http://127.0.0.1:80/" in serve.request("base", tmp_path, "0.0.0.0", 80)  # noqa: S104
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert "http://[::1]:80/v1/chat/completions" in serve.request("base", tmp_path, "::1", 80)
