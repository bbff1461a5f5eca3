"""`pipeline serve`: an OpenAI-compatible endpoint of a model, by `transformers serve` or vLLM. Ours is only to start it safely and to say how to ask."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pipeline.arguments import Parser, port
from pipeline.artifacts import lacks_template
from pipeline.errors import PipelineError, RecipeError
from stages.core.trust import own_code

DONE = 0
ENGINES = ("auto", "transformers", "vllm")
NEEDED = ("fastapi", "uvicorn", "openai")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONSAFEPATH": "1"}
"""What a server is told: it fetches nothing, reports nothing, and runs no file of the folder that it works in."""
SUMMARY = "Serve a finished model of a run through an OpenAI-compatible endpoint, and print a request that works. Ctrl-C ends it."


def main(arguments: list[str]) -> int:
    """Serve a model until Ctrl-C."""
    parser = Parser("serve", SUMMARY)
    parser.add_argument("run", metavar="RUN", help="a recipe, for its own results; or a run's folder, for those it holds")
    parser.add_argument("stage", metavar="STAGE", nargs="?", help="whom to serve (default: the model that was finished last)")
    parser.add_argument("--runs", metavar="DIR", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", metavar="N", type=port, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="what serves (default: vLLM where it is installed, else transformers)"
    )
    options = parser.read(arguments)
    from pipeline.chat.cast import cast
    from pipeline.own import run_of, tell_others

    run = run_of(options.run, options.runs)
    people = cast(run)
    if not options.stage:
        tell_others(run)
    stage = people.model(options.stage or list(people.models)[-1])
    folder = people.models[stage]
    if own_code(folder):
        raise RecipeError(
            f"'{stage}' is code of its own (auto_map), which is run here by `run`, `chat` and `export` alone; no server is started with it"
        )
    _whole(folder, options.run, stage)
    argv = command(options.engine, stage, folder, options.host, options.port)
    _free(options.host, options.port)
    if options.host not in LOOPBACK:
        print(f"warning: whoever reaches {options.host} can use this model: the endpoint asks for no key", file=sys.stderr)
    return _serve(argv, stage, folder, options.host, options.port)


def command(engine: str, stage: str, folder: Path, host: str, port: int) -> list[str]:
    """How the server is started. Raises RecipeError with what to install where it cannot be."""
    vllm = shutil.which("vllm")
    if engine == "vllm" or (engine == "auto" and vllm):
        if vllm is None:
            raise RecipeError("vLLM is not installed; it wants an environment of its own, from which `vllm` must be on the path")
        return [vllm, "serve", str(folder), "--served-model-name", stage, "--host", host, "--port", str(port)]
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RecipeError(f"{', '.join(missing)} must be installed to serve: pip install 'recipe-pipeline[serve]'")
    # The one model that is named, and no other that a request may ask for.
    return [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--host", host, "--port", str(port)]


def _whole(folder: Path, run: str, stage: str) -> None:
    if not (folder / "config.json").is_file():
        raise RecipeError(f"stage '{stage}' left an adapter, and servers want whole weights; first: pipeline export {run} {stage}")


def _free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RecipeError(f"nothing can listen on {host}:{port} ({error.strerror}); choose another --port") from error


def request(name: str, folder: Path, host: str, port: int) -> str:
    """A `curl` that asks the model something: in a chat where it has a template, else for the text's going on."""
    body: dict[str, object] = {"model": name, "max_tokens": 64}
    if lacks_template(folder):
        way, body["prompt"] = "completions", "Once upon a time"
    else:
        way, body["messages"] = "chat/completions", [{"role": "user", "content": "Hello!"}]
    return shlex.join(["curl", "-s", f"{address(host, port)}/v1/{way}", "-H", "Content-Type: application/json", "-d", json.dumps(body)])


def address(host: str, port: int) -> str:
    """Where this machine reaches the server."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what was typed is only compared
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _serve(argv: list[str], stage: str, folder: Path, host: str, port: int) -> int:
    name = stage if "--served-model-name" in argv else str(folder)
    child = subprocess.Popen(argv, env=surroundings(os.environ), stdout=sys.stderr)
    try:
        _wait(child, address(host, port))
        print(f"{stage} answers; ask it:\n\n  {request(name, folder, host, port)}\n\nCtrl-C ends it.", flush=True)
        child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        return DONE
    finally:
        _end(child)
    raise PipelineError(f"the server ended by itself (exit code {child.returncode}); its last lines stand above")


def surroundings(base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: this one's, and what keeps it at home."""
    return {**base, **QUIET}


def _wait(child: subprocess.Popen[bytes], address: str) -> None:
    """Until the server is well. Raises PipelineError if it ends first."""
    while child.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 - http to what we started
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise PipelineError(f"the server did not start (exit code {child.returncode}); its last lines stand above")


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
