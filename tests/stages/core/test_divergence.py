"""What is done about a loss that is not finite, as a record on disk; and what counts as a spike."""

import json
import random

import pytest

from stages.contract import Divergence, Job, StageError
from stages.core.checkpoints import Saver
from stages.core.divergence import RolledBack, Trouble, spike, spikes


@pytest.fixture
def trouble(tmp_path):
    def make(**settings):
        job = Job(stage="a", kind="sft", folder=tmp_path, seed=1, config={}, divergence=Divergence(**settings))
        return Trouble(job)

    return make


@pytest.fixture
def checkpointed(tmp_path):
    def make(step):
        saver = Saver(tmp_path / "checkpoints", Job(stage="a", kind="sft", folder=tmp_path, seed=1, config={}).checkpoints)
        saver.save(step, lambda partial: (partial / "weights").write_text("w"))
        saver.finish()

    return make


def test_by_default_it_stops_and_names_step_rows_and_the_last_good_checkpoint(trouble, checkpointed):
    with pytest.raises(StageError, match=r"loss is nan at step 3, in rows 8 to 15; there is no checkpoint yet"):
        trouble().meet(3, "loss is nan", "rows 8 to 15")
    checkpointed(2)
    with pytest.raises(StageError, match=r"the last good checkpoint is step-000002.*divergence.action to skip or rollback"):
        trouble().meet(3, "loss is nan", "rows 8 to 15")


def test_skips_are_counted_bounded_and_not_counted_twice_after_a_resume(trouble):
    first = trouble(action="skip", limit=2)
    first.meet(3, "nan", "rows")
    again = trouble(action="skip", limit=2)
    again.meet(3, "nan", "rows")
    again.meet(5, "nan", "rows")
    assert again.metrics() == {"skipped_batches": 2.0}
    with pytest.raises(StageError, match=r"divergence.limit \(2\) is reached: step 3 skipped; step 5 skipped"):
        again.meet(7, "nan", "rows")


def test_a_roll_back_lowers_the_rate_from_its_checkpoint_on_and_not_before(trouble, checkpointed):
    checkpointed(4)
    with pytest.raises(RolledBack, match=r"goes on from step-000004 with 0.5 of the learning rate"):
        trouble(action="rollback").meet(6, "nan", "rows")
    checkpointed(8)
    with pytest.raises(RolledBack, match=r"goes on from step-000008 with 0.25 of the learning rate"):
        trouble(action="rollback").meet(9, "nan", "rows")
    after = trouble(action="rollback")
    # Should both checkpoints be lost, the steps before them are taken as they were the first time.
    assert [after.factor(step) for step in (0, 3, 4, 7, 8, 20)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert after.metrics() == {"roll_backs": 2.0}
    assert len(after.notes()) == 2


def test_a_torn_record_is_told_and_not_taken_for_none(trouble, tmp_path):
    (tmp_path / "divergence.json").write_text('[{"step": 3')
    with pytest.raises(StageError, match=r"divergence.json cannot be read"):
        trouble()


def test_where_the_step_is_already_taken_nothing_can_be_skipped(trouble):
    with pytest.raises(StageError, match="DeepSpeed has stepped already"):
        trouble(action="skip").meet(3, "nan", "rows", may_skip=False)


def test_rows_are_kept_beside_the_log(trouble, tmp_path):
    assert trouble().keep("diverged-3.json", [{"row": 1}]) == "attempts/1/diverged-3.json"
    assert json.loads((tmp_path / "attempts/1/diverged-3.json").read_text()) == [{"row": 1}]


def test_a_spike_stands_out_above_noise_and_a_falling_or_a_noisy_loss_does_not():
    source = random.Random(0)
    noisy = [3.0 - 0.005 * step + source.gauss(0, 0.05) for step in range(200)]
    assert spikes([{"step": step, "loss": loss} for step, loss in enumerate(noisy)], 6.0) == []
    planted = [{"step": step, "loss": loss + (2.0 if step == 150 else 0.0)} for step, loss in enumerate(noisy)]
    found = spikes(planted, 6.0)
    assert len(found) == 1
    assert "at step 150" in found[0]
    assert spikes(planted, None) == []
    assert spike(9.0, [1.0] * 15, 6.0) is None, "too few to judge by"
    assert spike(1.0 + 1e-9, [1.0] * 50, 6.0) is None, "rounding is no spike where nothing varies"
    assert spike(2.0, [1.0] * 50, 6.0) is not None
    assert spike(float("nan"), [1.0] * 50, 6.0) is None
