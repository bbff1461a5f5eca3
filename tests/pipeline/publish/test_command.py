"""`pipeline publish` as it is typed: in a process of its own, told where the Hub is by the environment alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.publish.command import main
from pipeline.publish.errors import PublishError
from tests.hub.fixtures import READER, TOKEN
from tests.hub.server import Server

ROOT = Path(__file__).resolve().parents[3]


def started(run: Path, *arguments: str, hub: Server | None = None, token: str | None = TOKEN, **more: str) -> subprocess.Popen[str]:
    names = {
        "HF_HOME": str(run.parent / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    names |= {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9"} | ({"HF_TOKEN": token} if token else {})
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    command = [sys.executable, "-m", "pipeline", "publish", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**kept, **names}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def typed(run: Path, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    child = started(run, *arguments, **how)
    out, err = child.communicate(timeout=120)
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def test_published_as_typed_and_published_again(hub: Server, run: Path) -> None:
    first = typed(run, str(run), "chat", "--tag", "v1", hub=hub)
    assert (first.returncode, first.stderr.count("me/demo-chat: private")) == (0, 1), first.stderr
    assert f"{hub.url}/me/demo-chat  private" in first.stdout
    again = typed(run, str(run), "chat", "--json", hub=hub)
    [found] = json.loads(again.stdout)
    assert (found["sent"], found["repository"]) == ([], "me/demo-chat")
    whole = first.stdout + first.stderr + again.stdout + again.stderr + "".join(file.read_text() for file in run.glob("*.json*"))
    assert TOKEN not in whole


def test_killed_in_the_middle_of_an_upload_and_typed_again_it_is_complete(hub: Server, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, children = hub.lfs_put, []

    def kill_the_publisher(request: Any, oid: str) -> Any:
        if children:
            children.pop().kill()
        return put(request, oid)

    monkeypatch.setattr(hub, "lfs_put", kill_the_publisher)
    children.append(first := started(run, str(run), "chat", hub=hub))
    first.communicate(timeout=120)
    assert first.returncode == -signal.SIGKILL
    assert list(hub.repository("me/demo-chat").resolve("main").files) == [".gitattributes"]
    done = typed(run, str(run), "chat", hub=hub)
    assert done.returncode == 0, done.stderr
    artifact = run / "chat" / "artifact"
    assert all(hub.content("me/demo-chat", file.name) == file.read_bytes() for file in artifact.iterdir())
    assert len(hub.requests("PUT", "/lfs/")) == 1, "what arrived before the end is not sent again"
    assert [file.name for file in run.glob(".publish*")] == [".publish.lock"], "the rerun cleans up after the killed one"


def test_a_failure_is_one_sentence_and_exit_code_one(hub: Server, run: Path) -> None:
    failed = typed(run, str(run), "chat", hub=hub, token=READER)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("the token of me may only read")
    assert len(failed.stderr.splitlines()) == 1


def test_a_secret_of_the_environment_stops_it(run: Path) -> None:
    failed = typed(run, str(run), "chat", "--dry-run", CHAT_SECRET="message.content")  # stands in the template
    assert failed.returncode == 1
    assert "chat_template.jinja: line 1 looks like a secret of this machine's environment" in failed.stderr


def test_a_dry_run_lists_files_and_card(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "chat", "--dry-run", "--owner", "me", "--tag", "v2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("me/demo-chat  private  main  tag v2\n")
    assert shown.endswith("nothing is sent (--dry-run)\n")
    for part in ("model.safetensors", "README.md", "  | # demo-chat", "  | ## How to load it"):
        assert part in shown


def test_a_dry_run_of_a_family_ends_in_a_table_and_keeps_the_cards_for_those_who_ask(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--dry-run", "--owner", "me"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("  | ")]
    *rows, whole, hint, last = lines[-8:]
    assert [row.split()[0] for row in rows] == [f"me/demo-{name}" for name in ("words", "base", "chat", "judge", "policy")]
    sizes = [int(row.split()[-2].replace(",", "")) for row in [*rows, whole]]
    listed = [int(line.split()[0].replace(",", "")) for line in lines[:-8] if line.startswith("  ") and line.split()[0][0].isdecimal()]
    assert sizes[-1] == sum(sizes[:-1]) == sum(listed)
    assert (hint, last) == ("the cards (README.md) in full: add --cards, or name one stage", "nothing is sent (--dry-run)")
    assert main([str(run), "--dry-run", "--owner", "me", "--cards"]) == 0
    assert capsys.readouterr().out.count("  | ## How to load it") == 5


def test_a_recipe_publishes_its_own_stages_and_no_others_of_its_run(run: Path) -> None:
    with pytest.raises(PublishError, match=r"the recipe has no stage 'words' \(stages: world\); the run holds one: name .*/demo instead"):
        main([str(run / "recipe.yaml"), "words", "--runs", str(run.parent), "--dry-run"])


@pytest.mark.parametrize("module", ["pipeline.publish", "pipeline.publish.card, pipeline.publish.remote; pipeline.publish.remote.Remote()"])
def test_publishing_never_imports_torch(module: str) -> None:
    probe = f"import sys, {module}\nassert not {{'torch', 'transformers', 'peft'}} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, timeout=60)


def test_asking_for_help_loads_no_client() -> None:
    probe = "import sys\nfrom pipeline.__main__ import main\nmain(['publish', '--help'])\nassert 'huggingface_hub' not in sys.modules\n"
    shown = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, timeout=60, capture_output=True, text=True).stdout
    assert "--dry-run" in shown
