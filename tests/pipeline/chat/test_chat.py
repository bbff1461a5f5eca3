"""`pipeline chat` as it is typed into a pipe: a process with the models at its other end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.chat.cast import cast
from pipeline.chat.command import _answer
from pipeline.errors import RecipeError
from pipeline.export import main as export
from pipeline.store import Run
from stages.core.dialogue import Ask, Piece, Said
from tests.pipeline.chat import tiny_run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs"))


def typed(run: Path, *words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    names = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pipeline", "chat", str(run), *words]
    return subprocess.run(command, cwd=ROOT, env=names, input=lines, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_lines_of_a_pipe_are_answered_one_after_the_other(run: Path) -> None:
    lines = "hello you\n/compare base policy\n/nonsense\n/set temperature 0\n/again\n/again\n"
    done = typed(run, "base", "--json", "--max-new-tokens", "8", lines=lines)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["model"] for one in said] == ["base", "base", "policy", "base", "base"]
    assert all(set(one["rewards"]) == {"judge"} and one["logprob"] < 0 and one["tokens"] <= 8 for one in said)
    assert said[1]["logprob"] != said[2]["logprob"]
    assert said[3]["text"] == said[4]["text"], "without chance the same words get the same answer"
    assert "no command '/nonsense'" in done.stderr
    assert done.returncode == 2, "a program learns that a line was wrong"
    plain = typed(run, "--prompt", "hello you", "--temperature", "0", "--max-new-tokens", "8")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "log p -" in plain.stdout.splitlines()[-1]
    assert "judge" in plain.stdout.splitlines()[-1]


def test_everybody_in_a_run_is_found_in_the_order_of_the_family(run: Path) -> None:
    people = cast(Run(run))
    assert (list(people.models), list(people.judges)) == (["base", "policy"], ["judge"])
    with pytest.raises(RecipeError, match="did you mean 'policy'"):
        people.model("polcy")


def test_a_run_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no finished language model yet; first: pipeline run"):
        cast(Run(tmp_path))


def test_talking_imports_no_torch() -> None:
    names = "pipeline.chat.command, pipeline.chat.partner, pipeline.chat.session, pipeline.chat.cast"
    probe = f"import sys, {names}\nassert not {{'torch', 'transformers'}} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, timeout=60)


def test_what_a_model_says_cannot_move_the_cursor_or_colour_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    class Partner:
        def ask(self, ask: Ask) -> list[Piece | Said]:
            return [Piece(text="\x1b[2Jgone\r\n"), Said(model="chat", text="gone", tokens=1, ended="by itself", logprob=-1.0)]

    assert _answer(Partner(), Ask(model="chat", messages=[]), several=False, as_json=False) is not None  # type: ignore[arg-type]
    assert capsys.readouterr().out.startswith("␛[2Jgone␍\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--gguf",), "'judge' is a reward-model; GGUF is for models that answer"),
        (("--converter", "nowhere.py"), "'judge' is a reward-model"),
    ],
)
def test_no_gguf_is_begun_that_cannot_be_ended(run: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        export([str(run), "judge", "--out", str(tmp_path / "out"), *words])
    with pytest.raises(RecipeError, match=r"no file nowhere\.py"):
        export([str(run), "policy", "--out", str(tmp_path / "out"), "--converter", "nowhere.py"])
    assert not (tmp_path / "out").exists()
