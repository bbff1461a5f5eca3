"""`pipeline plan RECIPE --gpus N` as it is typed: for people, for programs, and with what is wrong."""

import json
import os
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.estimate.calibrating import Measured
from tests.recipes.documents import ROOT, commands

PAGE = ROOT / "docs" / "plan.md"
PLANS = [line for line in commands(PAGE) if line.startswith("pipeline plan")]
SMALL = """
name: small
stages:
  words: {kind: tokenizer, vocab_size: 32000, data: [{path: hub:some/text}]}
  base:
    kind: pretrain
    tokenizer: words
    model: {hidden_size: 1024, layers: 24, heads: 16, context: 2048}
    data: [{path: hub:some/text}]
    tokens: 10_000_000_000
    batch_tokens: 1_048_576
  chat: {kind: sft, model: base, data: [{path: chats.jsonl}], batch_tokens: 262_144, adapter: {kind: lora}}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "chats.jsonl").write_text(json.dumps({"prompt": "a" * 500, "completion": "b" * 500}) + "\n")
    return tmp_path


def test_the_plan_says_memory_time_price_and_what_to_set(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "--gpus", "8", "--gpu", "a100", "--price", "2"]) == 0
    told = capsys.readouterr().out
    assert "8 x a100 of 80 GB" in told
    assert "chosen: hardware.zero=0" in told
    for word in ("weights", "gradients", "optimizer", "activations", "cache", "logits", "workspace"):
        assert word in told


def test_programs_get_the_same_as_json(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "--gpus", "8", "--gpu", "a100", "--json"]) == 0
    base, chat = json.loads(capsys.readouterr().out)["stages"]
    assert base["parameters"] == 32_000 * 1024 + 24 * (4 * 1024**2 + 3 * 1024 * 2752 + 2048) + 1024
    assert chat["trained"] == 24 * 16 * (4 * 2048 + 3 * (1024 + 2752))
    assert base["tokens"] == 10**10
    assert {option["setting"]["zero"] for option in base["options"]} == {0, 1, 2, 3}
    memory = base["chosen"]["memory"]
    assert sum(memory[part] for part in memory if part not in ("total", "host", "node")) == pytest.approx(memory["total"])


def test_tokens_of_data_that_lie_here_are_told_by_their_size(small: Path, capsys: pytest.CaptureFixture[str]):
    main(["plan", "small.yaml", "--gpus", "8", "--gpu", "a100", "--json"])
    chat = json.loads(capsys.readouterr().out)["stages"][1]
    assert chat["tokens"] == pytest.approx(2 * (small / "chats.jsonl").stat().st_size / 4)


def test_what_does_not_fit_ends_with_code_one_and_what_would(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "--gpus", "8", "--gpu-memory", "2GB"]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_a_step_that_cannot_be_shared_is_told_once_with_what_can(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "stages.chat.batch_tokens=8192", "--gpus", "8", "--gpu", "a100"]) == 1
    told = capsys.readouterr().out
    why = "a step of 4 rows of 2048 tokens cannot be shared by 8 processes evenly: take 4, or set batch_tokens to 16384"
    assert told.count(why) == 2, "in the summary, and with the stage"
    assert "does not fit" not in told
    assert main(["plan", "small.yaml", "stages.chat.batch_tokens=16384", "--gpus", "8", "--gpu", "a100"]) == 0


def test_a_cpu_whose_memory_is_not_given_is_this_machine(small: Path, capsys: pytest.CaptureFixture[str]):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = []
    for count in ("1", "2"):
        main(["plan", "small.yaml", f"hardware.processes={count}", "--gpus", "0", "--json"])
        sizes.append(json.loads(capsys.readouterr().out)["machine"]["memory"])
    assert 0 < sizes[0] <= whole
    assert sizes[1] == sizes[0] // 2


def test_on_a_cpu_processes_are_the_recipes(small: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", "hardware.processes=2", "--gpus", "0", "--gpu-memory", "64GB", "--json"]) == 0
    base = json.loads(capsys.readouterr().out)["stages"][0]
    assert base["chosen"]["setting"] | {"rows": None} == {
        "processes": 2,
        "zero": 0,
        "optimizer": "device",
        "parameters": "device",
        "checkpointing": False,
        "rows": None,
        "compute": 4,
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "8"], "--gpus: how much memory has each? Say --gpu-memory 80GB"),
        (["--gpus", "8", "--gpu", "a10"], "--gpu: found 'a10', wanted one of"),
        (["--gpus", "8", "--gpu-memory", "80XB"], "--gpu-memory: found '80XB', wanted a size such as 80GB"),
        (["--calibrate"], "--calibrate is about a machine: say --gpus"),
        (["--price", "2"], "--price is about a machine: say --gpus"),
        (["--gpus", "x"], "--gpus: found 'x', wanted a whole number from 0"),
        (["--gpus", "8", "--nodes", "0"], "--nodes: found '0', wanted a whole number from 1"),
        (["--gpus", "8", "--price", "abc"], "--price: found 'abc', wanted a number above 0"),
        (["--gpus", "8", "--price", "nan"], "--price: found 'nan', wanted a number above 0"),
        (["--gpus", "8", "--mfu", "40"], "--mfu: found '40', wanted a share of the peak above 0 and at most 1"),
        (["--gpus", "0", "--price", "2"], "--price: there is no price without a time"),
        (["--gpus", "8", "--gpu-memory", "80GB", "--price", "2"], "--price: there is no price without a time"),
        (["--gpus", "8", "--gpu-memory", "80GB", "--mfu", "0.4"], "--mfu: is a share of the peak of a device that --gpu names"),
        (["--gpus", "0", "--gpu", "h100"], "--gpu: found 'h100', and --gpus 0 is a CPU"),
    ],
)
def test_wrong_words_are_told(small: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "small.yaml", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(message), "one sentence, whichever option it is"
    assert "usage:" not in told


def test_hardware_of_the_recipe_is_not_passed_over_in_silence(small: Path, capsys: pytest.CaptureFixture[str]):
    """The plan is for the machine that is asked about; what a run would take instead is noted."""
    machine = ["--gpus", "8", "--gpu", "a100"]
    assert main(["plan", "small.yaml", "hardware.gpus=4", "hardware.hosts=[a, b]", *machine]) == 0
    told = capsys.readouterr()
    assert told.err == "note: this plan is for --gpus 8, and a run would take hardware.gpus: 4\n"
    assert told.out.startswith("16 x a100 of 80 GB on 2 nodes")
    assert main(["plan", "small.yaml", "hardware.hosts=[a, b]", *machine, "--nodes", "4"]) == 0
    assert capsys.readouterr().err == "note: this plan is for --nodes 4, and a run would take hardware.nodes: 2\n"
    assert main(["plan", "small.yaml", "hardware.gpus=8", *machine]) == 0
    assert capsys.readouterr().err == ""


def test_memory_of_tiny_models_is_told_in_units_that_show_it(small: Path, capsys: pytest.CaptureFixture[str]):
    tiny = "stages.base.model={hidden_size: 8, layers: 1, heads: 1, context: 64}"
    assert main(["plan", "small.yaml", tiny, "stages.words.vocab_size=300", "--until", "base", "--gpus", "0", "--gpu-memory", "8GB"]) == 0
    told = capsys.readouterr().out
    assert "CPU, 1 process, 8.0 GB of its memory" in told
    assert " MB of one process" in told
    assert "0.00" not in told


def test_a_cpu_is_told_as_what_its_processes_share(small: Path, capsys: pytest.CaptureFixture[str]):
    main(["plan", "small.yaml", "hardware.processes=2", "--gpus", "0", "--gpu-memory", "64GB", "--nodes", "2"])
    assert capsys.readouterr().out.startswith("CPU, 2 processes on each of 2 nodes, 64.0 GB of its memory each\n")


def test_a_measured_time_has_a_price_on_a_cpu_too(small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Of the machine, however many processes share it."""
    monkeypatch.setattr("pipeline.estimate.command.calibrate", lambda plan, step: Measured(2, 1.0, 1e6, 10**9))
    words = ["plan", "small.yaml", "hardware.processes=2", "--gpus", "0", "--gpu-memory", "64GB", "--price", "3", "--calibrate", "--json"]
    assert main(words) == 0
    base = json.loads(capsys.readouterr().out)["stages"][0]
    assert base["hours"] == pytest.approx(10**10 / 1e6 / 3600)
    assert base["price"] == pytest.approx(3 * base["hours"])


def test_an_unknown_family_names_its_file(small: Path, capsys: pytest.CaptureFixture[str]):
    (small / "model").mkdir()
    (small / "model" / "config.json").write_text(json.dumps({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}))
    (small / "m.yaml").write_text("name: m\nstages:\n  chat: {kind: sft, model: ./model, data: [{path: chats.jsonl}]}\n")
    assert main(["plan", "m.yaml", "--gpus", "1", "--gpu", "a100"]) == 2
    assert "model/config.json: model_type: found 'mamba', wanted one whose shape the plan knows" in capsys.readouterr().err


@pytest.mark.slow
def test_calibrated_time_is_that_of_a_few_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from tests.stages.tiny import tokenizer_of

    monkeypatch.chdir(tmp_path)
    words = [f"word{number}" for number in range(50)]
    tokenizer_of(words).save_pretrained(tmp_path / "words")
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": " ".join(words[n % 7 :])}) + "\n" for n in range(200)))
    base = {"kind": "pretrain", "tokenizer": "./words", "model": {"hidden_size": 32, "layers": 1, "heads": 2, "context": 64}}
    base |= {"data": [{"path": "text.jsonl"}], "tokens": 10**9, "batch_tokens": 256}
    judge = {"kind": "reward", "model": "base", "data": [{"path": "hub:some/pairs"}]}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "hardware": {"gpus": 0}, "stages": {"base": base, "judge": judge}}))
    assert main(["plan", "r.yaml", "--gpus", "0", "--gpu-memory", "8GB", "--calibrate", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["stages"]
    assert first["measured"]["tokens"] > 0
    assert first["measured"]["memory"] > 10**7
    assert first["hours"] == pytest.approx(10**9 / first["measured"]["tokens"] / 3600)
    assert second["measured"] == "not measured: 'base' is not done yet"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("line", PLANS)
def test_every_plan_that_the_page_shows_prints_what_the_page_shows(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    assert main(line.split()[1:]) == 0
    page = PAGE.read_text(encoding="utf-8")
    assert [row for row in capsys.readouterr().out.splitlines() if row.strip() and row not in page] == []
