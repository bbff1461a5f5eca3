import math

from stages.core.metrics import Metrics, read


def test_every_step_is_one_line_of_standard_json(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.log(1, 10, loss=2.5)
    metrics.log(2, 10, loss=math.nan)
    first, second = read(tmp_path / "metrics.jsonl")
    assert (first["step"], first["steps"], first["loss"]) == (1, 10, 2.5)
    assert second["loss"] is None
    assert first["seconds"] >= 0


def test_a_resumed_run_replaces_the_lines_after_its_step_and_a_torn_one(tmp_path):
    metrics = Metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.log(step, 10, loss=float(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "los')
    resumed = Metrics(tmp_path)
    resumed.rewind(2)
    resumed.log(3, 10, loss=0.5)
    assert [(line["step"], line["loss"]) for line in read(tmp_path / "metrics.jsonl")] == [(1, 1.0), (2, 2.0), (3, 0.5)]


def test_seconds_go_on_over_attempts(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "steps": 2, "seconds": 100.0}\n')
    metrics = Metrics(tmp_path)
    metrics.rewind(1)
    metrics.log(2, 2)
    assert 100.0 <= read(tmp_path / "metrics.jsonl")[1]["seconds"] < 101.0


def test_only_one_process_writes(tmp_path):
    silent = Metrics(tmp_path, writes=False)
    silent.log(1, 1, loss=1.0)
    silent.rewind(0)
    assert not (tmp_path / "metrics.jsonl").exists()
