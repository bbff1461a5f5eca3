"""`pipeline run` with real stage processes."""

import json
import time
from pathlib import Path

import pytest

from pipeline.lock import is_held
from stages.contract import DONE, FAILED, WRONG_INPUT
from tests.pipeline.conftest import Workshop


def test_a_run_leaves_for_every_stage_an_artifact_a_manifest_and_a_link(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    workshop.real_processes()
    assert workshop.carry_out() == DONE
    for stage in ("rows", "base", "chat", "exam"):
        link = workshop.run.path / stage
        assert link.is_symlink()
        manifest = json.loads((link / "manifest.json").read_text())
        assert manifest["fingerprint"] == link.readlink().name.removeprefix(f"{stage}-")
        assert all(not Path(name).is_absolute() for name in manifest["files"])
        assert json.loads((link / "attempts/1/exit.json").read_text())["code"] == 0
    out = capsys.readouterr().out
    assert "The family" in out
    assert "runs/chain/chat/artifact" in out
    assert not is_held(workshop.run.lock)


def test_what_a_stage_is_told_is_complete_and_absolute(workshop: Workshop):
    workshop.carry_out("hardware.threads=2", "checkpoints.keep_last=3")
    job = json.loads((workshop.run.path / "chat/job.json").read_text())
    assert job["stage"] == "chat"
    assert job["kind"] == "toy-train"
    assert job["seed"] == 5
    assert job["config"]["optimizer"]["learning_rate"] == 0.02
    assert job["inputs"]["model"]["path"] == str(workshop.folder("base").artifact)
    assert job["inputs"]["model"]["kind"] == "causal-lm"
    assert job["files"] == {"data.0": [str(workshop.root / "chats.jsonl")]}
    assert job["hardware"]["gpus"] == 0
    assert job["hardware"]["threads"] == 2
    assert job["checkpoints"]["keep_last"] == 3
    base = json.loads((workshop.run.path / "base/job.json").read_text())
    assert base["files"] == {"data.0": [str(workshop.folder("rows").artifact / "rows.jsonl")]}


def test_running_again_starts_nothing_and_says_why(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    workshop.carry_out()
    before = workshop.attempts()
    capsys.readouterr()
    assert workshop.carry_out() == DONE
    assert workshop.attempts() == before
    assert capsys.readouterr().err.count("skip  done just now") == 4


def test_a_changed_setting_reruns_its_stage_and_those_below_and_changing_it_back_costs_nothing(workshop: Workshop):
    workshop.carry_out()
    first = (workshop.run.path / "chat").readlink()
    assert workshop.carry_out("stages.chat.optimizer.learning_rate=1e-2") == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 2, "exam": 2}
    assert (workshop.run.path / "chat").readlink() != first
    assert workshop.carry_out() == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 2, "exam": 2}
    assert (workshop.run.path / "chat").readlink() == first


def test_a_failing_stage_ends_in_1_with_its_log_and_the_command_to_go_on(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("stages.chat.behaviour=fail") == FAILED
    err = capsys.readouterr().err
    assert "the loss is not a number at step 2" in err
    assert "runs/chain/chat-" in err
    assert "attempts/1/log.txt" in err
    assert "pipeline run chain.yaml stages.chat.behaviour=fail" in err
    assert workshop.actions() == {"rows": "skip", "base": "skip", "chat": "resume", "exam": "run"}


def test_a_failed_stage_resumes_from_its_checkpoint(workshop: Workshop):
    workshop.carry_out("stages.chat.behaviour=fail")
    assert "from step-000002; attempt 1 failed (exit code 1)" in workshop.plan().step("chat").reason
    assert workshop.carry_out() == DONE
    result = json.loads((workshop.run.path / "chat/result.json").read_text())
    assert result["notes"] == ["took 2 steps"]
    assert json.loads((workshop.run.path / "chat/manifest.json").read_text())["attempts"] == 2


@pytest.mark.parametrize(
    ("behaviour", "code", "sentence"),
    [
        ("bug", FAILED, "ZeroDivisionError: a bug"),
        ("data", WRONG_INPUT, "row 7: found 3, wanted a text"),
        ("crash", FAILED, "was ended by signal 9"),
        ("empty", FAILED, "left no artifact"),
        ("silent", FAILED, "left no result.json"),
        ("half", FAILED, "its result.json is wrong"),
        ("wrong-kind", FAILED, "its artifact is a reward-model, and a toy-train stage makes a causal-lm"),
    ],
)
def test_every_way_to_fail_is_told_and_leaves_no_manifest(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], behaviour: str, code: int, sentence: str
):
    assert workshop.carry_out("--until", "base", f"stages.base.behaviour={behaviour}") == code
    assert sentence in capsys.readouterr().err
    assert not (workshop.folder("base").path / "manifest.json").exists()
    assert not (workshop.run.path / "base").exists()


def test_no_process_of_a_stage_outlives_it(workshop: Workshop):
    workshop.real_processes()
    assert workshop.carry_out("stages.base.behaviour=leave-children") == FAILED
    pid = (workshop.folder("base").path / "grandchild").read_text()
    status = Path(f"/proc/{pid}/stat")
    for _ in range(200):  # a signal is sent at once and, on a busy machine, obeyed a little later
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} lives on")


def test_selected_stages_run_and_others_do_not(workshop: Workshop):
    assert workshop.carry_out("--until", "base") == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1}
    assert workshop.carry_out("--from", "chat", "--until", "chat") == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 1}
    assert workshop.carry_out("--only", "exam") == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 1, "exam": 1}


def test_a_stage_alone_needs_what_it_takes_to_be_done(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--only", "exam") == WRONG_INPUT
    assert "exam takes from base, chat, which are neither done nor selected" in capsys.readouterr().err
    assert workshop.attempts() == {}


def test_redo_keeps_the_earlier_result_and_runs_the_stages_below_again(workshop: Workshop):
    workshop.carry_out()
    kept = workshop.folder("base").path
    assert workshop.carry_out("--redo", "base") == DONE
    assert (kept.with_name(f"{kept.name}.1") / "manifest.json").exists()
    assert workshop.plan().step("base").action == "skip"
    assert json.loads((workshop.run.path / "base/manifest.json").read_text())["attempts"] == 1


def test_redone_with_the_same_bits_nothing_below_runs_and_with_others_all_of_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    workshop.carry_out()
    workshop.carry_out("--redo", "base", "--only", "base")
    assert workshop.actions()["chat"] == "skip"
    monkeypatch.setenv("TOY_NOISE", "1")
    workshop.carry_out("--redo", "base", "--only", "base")
    plan = workshop.plan()
    assert plan.step("chat").action == "run"
    assert plan.step("chat").reason == "base was done again, with another result"


def test_a_half_done_stage_does_not_go_on_from_another_model_than_it_began_with(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    workshop.carry_out("stages.chat.behaviour=fail")
    assert workshop.actions()["chat"] == "resume"
    workshop.carry_out("--redo", "base", "--only", "base")
    assert workshop.actions()["chat"] == "resume", "the same bits"
    monkeypatch.setenv("TOY_NOISE", "1")
    workshop.carry_out("--redo", "base", "--only", "base")
    assert workshop.plan().step("chat").reason == "base was done again, with another result; what was half done is kept"
    assert workshop.carry_out() == DONE
    assert json.loads((workshop.run.path / "chat/result.json").read_text())["notes"] == ["took 4 steps"]


def test_a_missed_gate_stops_the_chain_and_loosening_it_goes_on_without_training_again(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
):
    assert workshop.carry_out("stages.chat.require={loss: {max: 0.1}}") == FAILED
    last = (
        "chat misses its gate: loss 0.25 is above 0.1. The stages below do not run; change the stage, or its `require`; then: pipeline run"
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith(last)
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 1}
    assert workshop.carry_out("stages.chat.require={loss: {max: 0.1}}") == FAILED
    assert capsys.readouterr().err.splitlines()[-1].startswith(last), "of a stage that was done already too"
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 1}
    assert workshop.carry_out("stages.chat.require={loss: {max: 0.3}}") == DONE
    assert workshop.attempts() == {"rows": 1, "base": 1, "chat": 1, "exam": 1}


def test_a_stage_that_finished_while_nobody_watched_is_only_sealed(workshop: Workshop):
    workshop.carry_out("--until", "base")
    (workshop.folder("base").path / "manifest.json").unlink()
    assert workshop.actions()["base"] == "seal"
    assert workshop.carry_out("--until", "base") == DONE
    assert workshop.attempts()["base"] == 1
    assert workshop.actions()["base"] == "skip"


def test_a_damaged_result_is_noticed_and_made_again(workshop: Workshop):
    workshop.carry_out()
    weights = workshop.folder("base").artifact / "weights.txt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    step = workshop.plan().step("base")
    assert step.action == "resume"
    assert "artifact/weights.txt has" in step.reason
    assert workshop.carry_out() == DONE
    assert weights.read_bytes() == whole


def test_a_flipped_bit_in_what_a_stage_begins_with_is_found_before_it_starts(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    workshop.carry_out("--until", "base")
    weights = workshop.folder("base").artifact / "weights.txt"
    whole = weights.read_bytes()
    weights.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert workshop.carry_out() == FAILED
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("stage 'base', which 'chat' begins with: artifact/weights.txt has changed")
    assert workshop.attempts() == {"rows": 1, "base": 1}
    assert told.endswith("to make it again: pipeline run chain.yaml --redo base")
    assert workshop.carry_out("--redo", "base") == DONE
    assert weights.read_bytes() == whole


@pytest.mark.parametrize(
    ("written", "flipped"),
    [('"loss": 0.25', '"loss": 0.35'), ('"attempts": 1', '"attempts": 9'), ('"kind": "toy-train"', '"kind": "toy-trail"')],
)
def test_a_manifest_that_says_something_else_than_was_written_is_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], written: str, flipped: str
):
    """It is JSON still, and every file matches it."""
    workshop.carry_out("--until", "base")
    manifest = workshop.folder("base").path / "manifest.json"
    text = manifest.read_text()
    assert text.count(written) >= 1
    manifest.write_text(text.replace(written, flipped, 1))
    assert workshop.call("doctor", "runs/chain") == FAILED
    assert "manifest.json has changed since it was written" in capsys.readouterr().out
    assert workshop.actions()["base"] != "skip"
    assert workshop.carry_out("--until", "base") == DONE


def test_data_that_changes_while_a_run_goes_on_stops_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from pipeline import execute

    real = execute.spawn

    def spawn(argv, **settings):  # type: ignore[no-untyped-def]
        (workshop.root / "chats.jsonl").write_text('{"text": "changed"}\n')
        return real(argv, **settings)

    monkeypatch.setattr(execute, "spawn", spawn)
    assert workshop.carry_out() == WRONG_INPUT
    assert "the data of stage 'chat' changed since this run began" in capsys.readouterr().err


def test_a_code_file_reaches_the_stage_by_its_absolute_path_and_bears_identity_by_content(workshop: Workshop):
    (workshop.root / "rules.py").write_text("def short(prompt, completion, finished, reference): return 1.0\n")
    override = "stages.base.rewards=[{rule: 'rules.py:short'}]"
    assert workshop.carry_out("--until", "base", override) == DONE
    job = json.loads((workshop.folder("base", override).path / "job.json").read_text())
    assert job["config"]["rewards"][0]["rule"] == f"{workshop.root}/rules.py:short"
    before = workshop.fingerprints(override)
    (workshop.root / "rules.py").write_text("def short(prompt, completion, finished, reference): return 2.0\n")
    after = workshop.fingerprints(override)
    assert before["rows"] == after["rows"]
    assert before["base"] != after["base"]


def test_a_function_that_a_code_file_does_not_have_is_told_before_anything_starts(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    (workshop.root / "my rules.py").write_text("raise SystemExit\ndef short(prompt, completion, finished, reference): return 1.0\n")
    assert workshop.call("check", "chain.yaml", "stages.base.rewards=[{rule: 'my rules.py:short'}]") == DONE, "it is not run"
    assert workshop.call("check", "chain.yaml", "stages.base.rewards=[{rule: 'my rules.py:shirt'}]") == WRONG_INPUT
    assert "my rules.py has no function 'shirt' (it has short); did you mean 'short'?" in capsys.readouterr().err


def test_the_recipe_its_overrides_and_its_history_are_kept(workshop: Workshop):
    workshop.carry_out("--until", "rows", "stages.rows.rows=4")
    assert (workshop.run.path / "recipe.yaml").read_bytes() == workshop.file.read_bytes()
    kept = json.loads((workshop.run.path / "overrides.json").read_text())
    assert kept == {"overrides": ["stages.rows.rows=4"], "recipe": "../../chain.yaml"}
    events = [json.loads(line)["event"] for line in (workshop.run.path / "events.jsonl").read_text().splitlines()]
    assert events == ["started", "ended", "done"]


def test_no_secret_of_the_environment_is_written(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    workshop.real_processes()
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789")
    workshop.carry_out()
    written = b"".join(file.read_bytes() for file in workshop.run.path.rglob("*") if file.is_file())
    assert b"hf_canary" not in written


def test_a_file_beside_the_stage_cannot_shadow_our_packages(workshop: Workshop):
    workshop.real_processes()
    (workshop.root / "stages.py").write_text("raise SystemExit('shadowed')\n")
    (workshop.root / "data.py").write_text("raise SystemExit('shadowed')\n")
    folder = workshop.folder("rows").path
    folder.mkdir(parents=True)
    (folder / "data.py").write_text("raise SystemExit('shadowed')\n")
    assert workshop.carry_out("--until", "rows") == DONE


def test_more_gpus_than_there_are_are_told_before_anything_starts(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert workshop.carry_out("hardware.gpus=2") == WRONG_INPUT
    lacks = "hardware.gpus: found 2, and stages would see 1 CUDA devices here"
    assert lacks in capsys.readouterr().err
    assert not workshop.run.path.exists()
    for command in ("check", "plan"):  # of a run elsewhere
        assert workshop.call(command, "chain.yaml", "hardware.gpus=2") == DONE
        assert f"warning: a run cannot start on this machine: 'hardware.gpus=2': {lacks}" in capsys.readouterr().out


def test_zero_without_deepspeed_is_told_before_anything_starts(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.here.find_spec", lambda name: None)
    assert workshop.carry_out("hardware.zero=3") == WRONG_INPUT
    assert "hardware.zero: found 3, which DeepSpeed does, and it is not installed" in capsys.readouterr().err
    assert not workshop.run.path.exists()


def test_a_folder_of_runs_that_is_a_link_finds_its_recipe_again(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory):
    (workshop.root / "runs").symlink_to(tmp_path_factory.mktemp("large") / "deep" / "disk")
    (workshop.root / "runs").readlink().mkdir(parents=True)
    assert workshop.carry_out("--until", "base") == DONE
    assert workshop.call("run", "runs/chain") == DONE


def test_a_moved_run_is_still_done(workshop: Workshop):
    workshop.carry_out()
    (workshop.root / "runs").rename(workshop.root / "elsewhere")
    assert workshop.call("plan", "chain.yaml", "--runs", "elsewhere") == DONE
    assert workshop.call("run", "chain.yaml", "--runs", "elsewhere") == DONE
    assert not (workshop.root / "runs").exists()


def test_a_dry_run_shows_the_commands_and_writes_nothing(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--dry-run") == DONE
    out = capsys.readouterr().out
    assert "toy_worker.py" in out
    assert "job.json" in out
    assert not workshop.run.path.exists()
    assert workshop.carry_out("--dry-run", "--json") == DONE
    found = json.loads(capsys.readouterr().out)
    assert list(found["commands"]) == ["rows", "base", "chat", "exam"]


def test_a_run_can_answer_in_json(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    assert workshop.carry_out("--json", "--until", "base") == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 0
    assert found["stages"][1]["metrics"] == {"loss": 0.25}


def test_a_result_of_a_later_version_is_kept_and_the_stage_runs_beside_it(workshop: Workshop):
    workshop.carry_out()
    manifest = workshop.folder("base").path / "manifest.json"
    later = json.dumps(json.loads(manifest.read_text()) | {"format": 99})
    manifest.write_text(later)
    step = workshop.plan().step("base")
    assert step.action == "run"
    assert "has format 99" in step.reason
    assert "that result is kept" in step.reason
    assert workshop.carry_out() == DONE
    kept = workshop.folder("base").path.with_name(workshop.folder("base").path.name + ".1")
    assert (kept / "manifest.json").read_text() == later
    assert (kept / "artifact/weights.txt").exists()
    assert workshop.actions()["base"] == "skip"


def test_a_result_of_the_wrong_kind_is_made_again_and_not_sealed_for_ever(workshop: Workshop):
    assert workshop.carry_out("--until", "base", "stages.base.behaviour=wrong-kind") == FAILED
    step = workshop.plan().step("base")
    assert step.action == "resume"
    assert "finished, but its artifact is a reward-model" in step.reason
    assert workshop.carry_out("--until", "base") == DONE
