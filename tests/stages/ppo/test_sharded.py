"""Players under ZeRO-1, 2 and 3 on two processes: each a plain player in shards, none a hand in another's weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.together import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What `two_ranks.py` saw, by rank. It ends: a process that waits for another would run into the limit."""
    out = tmp_path_factory.mktemp("ranks") / "found"
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run(
        [*argv, str(script), str(out), *map(str, (0, *STAGES))], env=settings, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr.partition("ChildFailedError")[0][-4000:]
    return [json.loads(out.with_name(f"found-{rank}.json").read_text()) for rank in (0, 1)]


def close(one: list[float], two: list[float]) -> None:
    assert len(one) == len(two)
    # Sums over up to two thousand weights; Adam magnifies rounding where gradients are near zero.
    assert one == pytest.approx(two, abs=5e-3, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_of_one_player_leaves_every_bit_of_the_other(found, stage):
    for rank in found:
        assert all(rank[f"alternating {stage}"][f"still {turn}"] for turn in range(4))


@pytest.mark.parametrize("stage", STAGES)
def test_alternating_steps_are_those_of_plain_players(found, stage):
    """Clips, schedules and optimizers included; stale gradients of an earlier window would show."""
    plain, sharded = found[0]["alternating 0"], found[0][f"alternating {stage}"]
    assert sharded["norms"] == pytest.approx(plain["norms"], abs=1e-5)
    assert min(plain["norms"]) > 0.05, "the clip was never felt"
    close(sharded["policy"], plain["policy"])
    close(sharded["critic"], plain["critic"])


@pytest.mark.parametrize("stage", STAGES)
def test_processes_hold_the_same_weights_after_every_step(found, stage):
    for name in ("policy", "critic"):
        assert found[0][f"alternating {stage}"][name] == found[1][f"alternating {stage}"][name]


@pytest.mark.parametrize("stage", [0, *STAGES])
def test_many_small_passes_make_the_step_of_one_large_pass(found, stage):
    large, small = found[0][f"accumulating {stage}"]["4"], found[0][f"accumulating {stage}"]["1"]
    assert small[:3] == pytest.approx(large[:3], abs=1e-5)
    close(small, large)


@pytest.mark.parametrize("stage", STAGES)
def test_the_scale_of_the_critics_loss_changes_no_bit_of_the_policy(found, stage):
    assert found[0][f"clipping {stage}"]["1.0"] == found[0][f"clipping {stage}"]["1000.0"]


@pytest.mark.parametrize("stage", [0, *STAGES])
def test_forgotten_gradients_leave_no_trace(found, stage):
    assert found[0][f"forgetting {stage}"]["True"] == found[0][f"forgetting {stage}"]["False"]


@pytest.mark.parametrize("stage", [0, *STAGES])
def test_a_gradient_that_is_infinite_on_one_process_is_told_on_both_and_can_be_skipped_only_without_engines(found, stage):
    for rank in found:
        told = rank[f"spoilt {stage}"]
        assert told["told"].startswith("the policy's gradient is not finite (norm")
        assert told["may skip"] == (stage == 0), "an engine has stepped by then"
        assert told["taken"] == 1, "the schedule goes on"


@pytest.mark.parametrize("stage", [0, *STAGES])
def test_after_a_roll_back_a_step_goes_half_as_far(found, stage):
    whole, half = found[0][f"lowering {stage}"]["1.0"], found[0][f"lowering {stage}"]["0.5"]
    assert max(map(abs, whole)) > 0.1
    assert half == pytest.approx([step / 2 for step in whole], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_generation_waits_for_nobody_and_gathers_once(found, stage):
    short, long = ([rank[f"generating {stage}"][length] for rank in found] for length in ("2", "30"))
    assert [len(ids) for ids in long[0]["ids"]] == [1, 1, 1]
    assert [len(ids) for ids in long[1]["ids"]] == [30, 30, 30]
    assert long[1]["gathers"] == short[1]["gathers"], "more tokens cost more messages"
    assert (long[1]["gathers"] > 0) == (stage == 3)
    for rank, own in enumerate(long):
        assert own["ids"] == found[rank]["generating 0"]["30"]["ids"], "shards brought together draw other answers"


@pytest.mark.parametrize("stage", STAGES)
def test_learning_goes_on_after_generation(found, stage):
    close(found[0][f"generating {stage}"]["after"], found[0]["generating 0"]["after"])


@pytest.mark.parametrize("stage", [0, *STAGES])
def test_a_head_in_pieces_gives_the_same_steps(found, stage):
    one, many = found[0][f"chunks {stage}"].values()
    assert many == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_saved_and_restored_players_take_the_same_step_bit_for_bit(found, stage):
    for rank in found:
        assert rank[f"saving {stage}"]["resumed"] == rank[f"saving {stage}"]["going on"]


@pytest.mark.parametrize("stage", STAGES)
def test_weights_can_be_shown_put_back_and_brought_together(found, stage):
    told = found[0][f"putting {stage}"]
    assert told["shown"] == told["start"]
    assert told["whole"] != told["start"]
    assert told["plain"] == told["whole"]
    assert told["names"] > 10
