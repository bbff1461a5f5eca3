"""Laws of the findings: each sign of trouble is seen where it is, and a healthy run has none."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.findings import findings
from pipeline.report.reading import Attempt, Run, Stage, read_run
from pipeline.report.series import Curves, Series
from tests.pipeline.report import pretend


def stage(
    kind: str,
    *,
    notes: tuple[str, ...] = (),
    metrics: dict[str, float] | None = None,
    settings: dict[str, Any] | None = None,
    **ys: list[float],
) -> Stage:
    curves = Curves(tuple(Series(name, tuple(range(len(values))), tuple(values)) for name, values in ys.items()))
    return Stage("s", kind, "done", metrics=metrics or {}, notes=notes, curves=curves, settings=settings or {})


def found(*stages: Stage) -> list[str]:
    return [f"{finding.what} {finding.cause}" for finding in findings(Run("r", Path("r"), 0, "", (), stages))]


def test_a_healthy_run_has_no_finding(tmp_path: Path) -> None:
    assert findings(read_run(pretend.make_run(tmp_path))) == []


RISES = [float(i) for i in range(30)]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (stage("pretrain", loss=[5 - i / 10 for i in range(40)] + [4.0] * 10), "diverged late"),
        (stage("sft", validation_loss=[2.0, 1.0, 1.5]), "Overfitting"),
        (stage("reward", metrics={"accuracy": 0.55}), "only 55%"),
        (stage("reward", metrics={"accuracy": 0.7, "length_baseline": 0.31}), "length alone"),
        (
            stage("reward", metrics={"accuracy": 0.7}, settings={"require": {"accuracy": 0.8}}),
            "misses its gate: accuracy 0.7 is below 0.8.",
        ),
        (stage("sft", metrics={"loss": 3.0}, settings={"require": {"loss": {"max": 2.0}}}), "misses its gate: loss 3 is above 2."),
        (
            stage("sft", metrics={"loss": float("nan")}, settings={"require": {"loss": {"max": 2.0}}}),
            "misses its gate: loss nan is above 2.",
        ),
        (stage("ppo", clip_fraction=[0.5] * 10), "Updates are too large"),
        (stage("ppo", explained_variance=[-0.5] * 10), "worse than a constant"),
        (stage("ppo", eos_rate=[0.2] * 10), "answers finish"),
        (stage("ppo", entropy=[1.0] * 10 + [0.05] * 10), "stopped exploring"),
        (stage("ppo", reward=RISES, truth=[0.5 + i / 60 if i < 15 else 0.75 - i / 60 for i in range(30)]), "exploits the reward model"),
        (
            stage("ppo", notes=("entropy-collapse at rollout 31: the policy hardly varies its answers any more",)),
            "Entropy collapse at rollout 31:",
        ),
    ],
)
def test_each_sign_of_trouble_is_seen(given: Stage, word: str) -> None:
    (only,) = found(given)
    assert word in only


def test_numbers_that_are_not_finite_are_a_problem_and_stand_first() -> None:
    series = Series("loss", (1, 3), (1.0, 2.0), (2,))
    broken = Stage("b", "sft", "done", curves=Curves((series,), unreadable_lines=2))
    told = findings(Run("r", Path("r"), 0, "", (), (stage("ppo", eos_rate=[0.2] * 10), broken)))
    assert [finding.level for finding in told] == ["problem", "watch", "watch"]
    assert "first at step 2" in told[0].what
    assert math.isfinite(series.last or 0)


def test_how_a_stage_stopped_is_said_in_its_own_last_words() -> None:
    failed = Stage("f", "sft", "failed", attempts=(Attempt(1, 1, 2.0, "failed", "f: no data"),))
    assert "f: no data" in found(failed)[0]
    assert "goes on from its last checkpoint" in found(Stage("i", "sft", "interrupted"))[0]


def test_the_command_to_go_on_stands_with_a_stage_that_stopped(tmp_path: Path) -> None:
    from pipeline.report.page import commands

    run = pretend.make_run(tmp_path)
    (run / "chat" / "manifest.json").unlink()
    pretend.write(run / "chat" / "attempts" / "1" / "exit.json", {"code": 130})
    told = read_run(run)
    assert commands(told, told["chat"])[0] == ("Go on where it stopped", "pipeline run runs/tiny-family")
    assert json.loads((run / "chat" / "job.json").read_text())["kind"] == "sft"
