import json
import os
import threading

import pytest

from stages.contract import Checkpoints, StageError
from stages.core import checkpoints
from stages.core.checkpoints import Ground, Saver


def write(text):
    def into(folder):
        (folder / "weights").write_text(text)
        (folder / "more").mkdir()
        (folder / "more" / "state").write_text(text * 2)

    return into


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "stage" / "checkpoints"


@pytest.fixture
def saved(folder):
    """Saves whole checkpoints: `saved(1, 2, keep_last=1)`."""
    folder.mkdir(parents=True)

    def save(*steps, scores=None, **settings):
        saver = Saver(folder, Checkpoints(**settings))
        for step in steps:
            saver.save(step, write(str(step)), (scores or {}).get(step))
        saver.finish()
        return folder / f"step-{steps[-1]:06d}"

    return save


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_checkpoint_is_found(folder, saved):
    assert checkpoints.latest(folder / "none") is None
    saved(5, 10, 15, keep_last=3)
    newest = checkpoints.latest(folder)
    assert checkpoints.step_of(newest) == 15
    assert (newest / "more" / "state").read_text() == "1515"


def test_older_ones_are_deleted_only_when_a_newer_one_is_whole(folder, saved):
    saved(1, 2, 3, keep_last=2)
    assert names(folder) == ["step-000002", "step-000003"]


def test_multiples_are_kept_for_good(folder, saved):
    saved(*range(1, 8), keep_last=1, keep_every=3)
    assert names(folder) == ["step-000003", "step-000006", "step-000007"]


def test_the_best_one_is_kept_and_linked_and_only_if_that_is_asked_for(folder, saved):
    scores = {1: -3.0, 2: -1.0, 3: -2.0, 4: -1.5}
    saved(1, 2, 3, 4, scores=scores, keep_last=1, keep_best=True)
    assert names(folder) == ["best", "step-000002", "step-000004"]
    assert os.readlink(folder / "best") == "step-000002"
    saved(5, scores={5: -0.5}, keep_last=1, keep_best=True)
    assert names(folder) == ["best", "step-000005"], "a better one takes its place, in a later attempt too"


def test_without_keep_best_no_link_is_made(folder, saved):
    saved(1, 2, scores={1: 1.0, 2: 0.0}, keep_last=1)
    assert names(folder) == ["step-000002"]


class Killed(BaseException):
    pass


def test_a_kill_while_writing_leaves_the_one_before(folder, saved):
    saved(1, keep_last=1)

    def killed(partial):
        write("2")(partial)
        raise Killed

    with pytest.raises(Killed):
        Saver(folder, Checkpoints(keep_last=1)).save(2, killed)
    assert checkpoints.step_of(checkpoints.latest(folder)) == 1
    saved(3, keep_last=1)
    assert names(folder) == ["step-000003"], "leavings of the killed attempt are gone"


def test_a_kill_while_sealing_leaves_the_one_before(folder, saved, monkeypatch):
    """Between the last file and the seal, and between the seal and the rename."""
    for step, place in ((2, "write_json"), (3, "sync")):
        saved(1, keep_last=1)

        def killed(*_):
            raise Killed

        monkeypatch.setattr(checkpoints, place, killed)
        saver = Saver(folder, Checkpoints(keep_last=1))
        saver.save(step, write(str(step)))
        with pytest.raises(Killed):
            saver.finish()
        monkeypatch.undo()
        assert checkpoints.step_of(checkpoints.latest(folder)) == 1


def test_training_goes_on_while_a_checkpoint_is_sealed(folder, monkeypatch):
    hold = threading.Event()
    real = checkpoints.seal

    def slow(*arguments):
        assert hold.wait(60)
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "seal", slow)
    saver = Saver(folder, Checkpoints())
    saver.save(1, write("1"))
    assert checkpoints.latest(folder) is None, "not there before it is whole"
    hold.set()
    saver.finish()
    assert checkpoints.step_of(checkpoints.latest(folder)) == 1


def test_time_and_size_of_each_are_recorded(folder, saved, capsys):
    saved(1, 2)
    lines = [json.loads(line) for line in (folder.parent / "checkpoints.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["bytes"] == 3 and line["blocked_seconds"] >= 0 and line["overlapped_seconds"] >= 0 for line in lines)
    assert "checkpoint step-000002: 0.0 MiB, training waited" in capsys.readouterr().out


def test_time_alone_makes_a_checkpoint_due_but_never_for_more_than_a_fiftieth_of_it(folder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    saver = Saver(folder, Checkpoints(every_minutes=1))
    clock[0] = 59.0
    assert not saver.is_due()
    clock[0] = 60.0
    assert saver.is_due()

    def slow(partial):
        write("1")(partial)
        clock[0] += 5.0

    saver.save(1, slow)
    clock[0] = 65.0 + 249.0
    assert not saver.is_due(), "five seconds are two percent of 250"
    clock[0] += 1.0
    assert saver.is_due()
    assert not Saver(folder, Checkpoints(every_minutes=None)).is_due()
    saver.finish()


@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing", "unsealed", "torn seal", "empty seal"])
def test_a_damaged_checkpoint_is_passed_over_and_named(folder, saved, capsys, fault):
    newer = saved(1, 2)
    file = newer / "weights"
    if fault == "flipped":
        file.write_text("3")
    elif fault == "truncated":
        file.write_text("")
    elif fault == "missing":
        file.unlink()
    elif fault == "unsealed":
        (newer / checkpoints.SEAL).unlink()
    else:
        (newer / checkpoints.SEAL).write_text('{"files": {"wei' if fault == "torn seal" else '{"files": {}}')
    assert checkpoints.step_of(checkpoints.latest(folder)) == 1
    assert "step-000002 is passed over" in capsys.readouterr().out


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoint(folder, saved):
    saved(1, keep_last=1)

    def full(partial):
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"step 2 could not be written.*MiB are free"):
        Saver(folder, Checkpoints(keep_last=1)).save(2, full)
    assert checkpoints.step_of(checkpoints.latest(folder)) == 1


def test_a_disk_that_fills_up_while_sealing_is_told_at_the_next_boundary(folder, saved, monkeypatch):
    saved(1, keep_last=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", full)
    saver = Saver(folder, Checkpoints(keep_last=1))
    saver.save(2, write("2"))
    with pytest.raises(StageError, match="step 2 could not be written"):
        saver.save(3, write("3"))
    assert checkpoints.step_of(checkpoints.latest(folder)) == 1


def test_room_is_looked_for_before_the_first_step_and_before_each_checkpoint(folder, saved, monkeypatch):
    usage = checkpoints.shutil.disk_usage("/")

    def free(size):
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=size))

    saver = Saver(folder, Checkpoints(keep_last=2), expected=100 << 20)
    free(500 << 20)
    saver.check_room(100 << 20, every=2, steps=10)
    free(400 << 20)
    with pytest.raises(StageError, match=r"400\.0 MiB free; 3 checkpoints of 100\.0 MiB and an artifact of 100\.0 MiB need 420\.0 MiB"):
        saver.check_room(100 << 20, every=2, steps=10)
    saver.check_room(100 << 20, every=6, steps=10)  # two will be taken in all
    free(50 << 20)
    with pytest.raises(StageError, match=r"the checkpoint of step 1 needs 105\.0 MiB and 50\.0 MiB are free"):
        saver.save(1, write("1"))
    free(1 << 20)
    saved(1)
    free(2)
    with pytest.raises(StageError, match="the checkpoint of step 2 needs"):  # as large as the last one was
        saver.save(2, write("2"))
    assert names(folder) == ["step-000001"]


@pytest.mark.parametrize("keep_last", [1, 3])
@pytest.mark.parametrize("keep_every", [None, 4])
@pytest.mark.parametrize("keep_best", [False, True])
def test_room_is_asked_for_all_that_is_ever_there_at_once(folder, monkeypatch, keep_last, keep_every, keep_best):
    """Against what a saver really leaves, where the first checkpoint stays the best one."""
    settings, most = Checkpoints(keep_last=keep_last, keep_every=keep_every, keep_best=keep_best), 0
    monkeypatch.setattr(checkpoints, "sync", lambda path: None)
    retire = Saver._retire

    def counting(saver, step):
        nonlocal most
        most = max(most, len(list(folder.glob("step-*"))))
        retire(saver, step)

    monkeypatch.setattr(Saver, "_retire", counting)
    saver = Saver(folder, settings)
    for step in (*range(2, 14, 2), 13):
        saver.save(step, write(str(step)), -float(step))
    saver.finish()
    assert checkpoints.most_kept(settings, 2, 13) == most


def test_a_step_done_again_after_a_fall_back_replaces_the_damaged_one(folder, saved):
    (saved(1, 2) / "weights").write_text("x")
    saved(2)
    assert checkpoints.step_of(checkpoints.latest(folder)) == 2


def test_a_damaged_newer_one_never_makes_a_whole_one_go(folder, saved):
    (saved(5, 10, keep_last=1) / "weights").unlink()
    saved(5, 7, keep_last=1)  # after a fall back the steps of later ones are done again
    assert names(folder) == ["step-000007"]


def test_shards_go_on_only_where_they_were_written(folder):
    saver, sealed = Saver(folder, Checkpoints(), ground=Ground(2, 3)), folder / "step-000001"
    saver.save(1, write("1"))
    saver.finish()
    assert checkpoints.check_ground(sealed, Ground(2, 3)) is None
    with pytest.raises(StageError, match="written by 2 processes under ZeRO-3, and this is 1 process without ZeRO"):
        checkpoints.check_ground(sealed, Ground(1, 0))
    with pytest.raises(StageError, match=r"hardware.processes=2 .* hardware.zero=3"):
        checkpoints.check_ground(sealed, Ground(2, 2))


def test_whole_states_go_on_with_another_number_of_processes_and_that_is_said(folder):
    saver = Saver(folder, Checkpoints(), ground=Ground(2, 0))
    saver.save(1, write("1"))
    saver.finish()
    assert "the last bits differ" in checkpoints.check_ground(folder / "step-000001", Ground(1, 0))
    with pytest.raises(StageError, match="fit only there"):
        checkpoints.check_ground(folder / "step-000001", Ground(2, 2))


def test_all_processes_go_on_from_the_checkpoint_that_the_first_one_found(tmp_path):
    """Shared storage may show it to the others later, or it was sealed a moment ago."""
    (tmp_path / ".partial-step-000004").mkdir(parents=True)
    (tmp_path / ".partial-step-000004" / "state").write_text("x")
    said = []
    first = checkpoints.Saver(tmp_path, Checkpoints(), ground=Ground(2), total=lambda number: said.append(number) or number)
    other = checkpoints.Saver(tmp_path, Checkpoints(), ground=Ground(2), first=False, total=lambda number: number + said[-1])
    assert (first.newest(), other.newest()) == (None, None)
    checkpoints.seal(tmp_path / ".partial-step-000004")
    assert first.newest() == other.newest() == tmp_path / "step-000004"
