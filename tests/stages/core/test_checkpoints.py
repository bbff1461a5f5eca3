import pytest

from stages.contract import StageError
from stages.core import checkpoints


def write(text):
    def into(folder):
        (folder / "weights").write_text(text)
        (folder / "more").mkdir()
        (folder / "more" / "state").write_text(text * 2)

    return into


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert checkpoints.latest(tmp_path / "none") is None
    for step in (5, 10, 15):
        checkpoints.save(tmp_path, step, write(str(step)), keep_last=3)
    newest = checkpoints.latest(tmp_path)
    assert checkpoints.step_of(newest) == 15
    assert (newest / "more" / "state").read_text() == "1515"


def test_older_ones_are_deleted_only_when_a_newer_one_is_whole(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, write(str(step)), keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_kill_while_writing_leaves_the_one_before(tmp_path):
    checkpoints.save(tmp_path, 1, write("1"), keep_last=1)

    class Killed(BaseException):
        pass

    def killed(folder):
        write("2")(folder)
        raise Killed

    with pytest.raises(Killed):
        checkpoints.save(tmp_path, 2, killed, keep_last=1)
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 1
    checkpoints.save(tmp_path, 3, write("3"), keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"], "leavings of the killed attempt are gone"


@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing", "unsealed", "torn seal"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, capsys, fault):
    checkpoints.save(tmp_path, 1, write("one"), keep_last=2)
    newer = checkpoints.save(tmp_path, 2, write("two"), keep_last=2)
    file = newer / "weights"
    if fault == "flipped":
        file.write_text("twp")
    elif fault == "truncated":
        file.write_text("tw")
    elif fault == "missing":
        file.unlink()
    elif fault == "unsealed":
        (newer / checkpoints.SEAL).unlink()
    else:
        (newer / checkpoints.SEAL).write_text('{"files": {"wei')
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 1
    assert "step-000002" in capsys.readouterr().out


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoint(tmp_path):
    checkpoints.save(tmp_path, 1, write("1"), keep_last=1)

    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"step 2 could not be written.*MiB are free"):
        checkpoints.save(tmp_path, 2, full, keep_last=1)
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 1


def test_a_step_done_again_after_a_fall_back_replaces_the_damaged_one(tmp_path):
    checkpoints.save(tmp_path, 1, write("1"), keep_last=2)
    (checkpoints.save(tmp_path, 2, write("2"), keep_last=2) / "weights").write_text("x")
    checkpoints.save(tmp_path, 2, write("2"), keep_last=2)
    assert checkpoints.step_of(checkpoints.latest(tmp_path)) == 2
