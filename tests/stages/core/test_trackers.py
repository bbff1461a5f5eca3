"""What is recorded goes to the trackers that a recipe names, through accelerate's own classes; their troubles end no training."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import accelerate.tracking
import pytest

from stages.contract import Job
from stages.core.metrics import Metrics, read
from stages.core.trackers import SHOW, Trackers


def job(tmp_path: Path, *names: str) -> Job:
    folder = tmp_path / "demo" / "chat-0123456789ab"
    folder.mkdir(parents=True, exist_ok=True)
    return Job(stage="chat", kind="sft", folder=folder, seed=3, config={"epochs": 2, "optimizer": {"learning_rate": 0.1}}, track=names)


class Fake(accelerate.tracking.GeneralTracker):
    """Takes the place of a tracker through the interface that accelerate registers trackers by."""

    name = "wandb"
    requires_logging_directory = False
    said: list[tuple[str, Any]] = []
    fails = ""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__()
        self.said.append(("init", (given, named)))

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        self._say("start", None)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._say("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._say("log", (step, values))

    def log_table(self, table_name: str, **how: Any) -> None:
        self._say("table", (table_name, how))

    def _say(self, what: str, value: Any) -> None:
        if self.fails == what:
            raise ConnectionError("the page is down")
        self.said.append((what, value))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", accelerate.tracking.WandBTracker)
    monkeypatch.setattr(Fake, "said", [])
    monkeypatch.setattr(Fake, "fails", "")
    with pytest.warns(UserWarning, match="already registered"):
        accelerate.tracking.register_tracker_class(Fake)
    return Fake


def test_a_tracker_gets_settings_numbers_and_samples(tmp_path: Path, fake: type[Fake]) -> None:
    record = Metrics(tmp_path, trackers=Trackers(job(tmp_path, "wandb")))
    record.log(5, 10, loss=1.5, bad=float("nan"))
    record.trackers.samples(5, "samples", ["prompt", "answer"], [["Hi", "Hello"]])
    words = [what for what, _ in fake.said]
    assert words == ["init", "start", "settings", "log", "table"]
    (project,), named = fake.said[0][1]
    assert (project, named["name"], named["resume"]) == ("demo", "chat-0123456789ab", "allow")
    assert fake.said[2][1] == {"stage": "chat", "kind": "sft", "seed": 3, "epochs": 2, "optimizer.learning_rate": 0.1}
    step, values = fake.said[3][1]
    assert (step, values["loss"], "bad" in values) == (5, 1.5, False)
    assert fake.said[4][1] == ("samples", {"columns": ["prompt", "answer"], "data": [["Hi", "Hello"]], "step": 5})


SECRET = "hf_" + "Planted0" * 4


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_what_looks_like_a_secret_reaches_no_tracker(tmp_path: Path, fake: type[Fake], name: str) -> None:
    orders = job(tmp_path, name).model_copy(update={"config": {"note": f"use {SECRET}", "optimizer": {"learning_rate": 0.1}}})
    record = Metrics(tmp_path, trackers=Trackers(orders))
    record.log(1, 1, loss=1.0)
    record.trackers.samples(1, "samples", ["prompt", "answer"], [["Hi", f"{SECRET} <script>"]])
    shown = (
        str(fake.said)
        if name == "wandb"
        else "".join(file.read_bytes().decode("latin-1") for file in (tmp_path / "demo" / "track").rglob("events*"))
    )
    assert "[secret removed] <script>" in shown
    assert "use [secret removed]" in shown
    assert SECRET not in shown


class Page(Fake):
    """Stands where accelerate's class for MLflow does: a run without an identity is a new one."""

    name = "mlflow"
    begun: list[str | None] = []

    def __init__(self, *given: Any, run_name: str, run_id: str | None) -> None:
        super().__init__()
        self.begun.append(run_id)
        self.info = SimpleNamespace(run_id=run_id or f"run {len(self.begun)}")


class Client:
    """MLflow's, over what the pages were told."""

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(data=SimpleNamespace(metrics=dict.fromkeys(key for key, _ in self._lines())))

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [SimpleNamespace(step=step) for name, step in self._lines() if name == key]

    def _lines(self) -> list[tuple[str, int]]:
        return [(key, step) for what, said in Page.said if what == "log" for step, values in [said] for key in values]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mlflow")
    module.tracking = SimpleNamespace(is_tracking_uri_set=lambda: True, MlflowClient=Client)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "mlflow", Page)
    monkeypatch.setattr(Page, "said", [])
    monkeypatch.setattr(Page, "begun", [])


def test_a_later_attempt_goes_on_in_the_mlflow_run_of_the_first(tmp_path: Path, mlflow: None) -> None:
    for _ in range(3):
        Metrics(tmp_path, trackers=Trackers(job(tmp_path, "mlflow"))).log(1, 3, loss=1.0)
    assert Page.begun == [None, "run 1", "run 1"]


def test_steps_that_are_done_again_stand_in_mlflow_once(tmp_path: Path, mlflow: None) -> None:
    """Killed behind step 3 and, gone on from step 1, behind step 2; the numbers of an evaluation come in a line of their own."""
    for steps in ((1, 2, 3), (2,), (2, 3, 4)):
        record = Metrics(tmp_path, trackers=Trackers(job(tmp_path, "mlflow")))
        for step in steps:
            record.log(step, 4, loss=float(step))
        if steps[-1] == 4:
            record.log(3, 4, held_out_loss=3.0)
    sent = sorted((key, step) for key, step in Client()._lines() if key in ("loss", "held_out_loss"))
    assert sent == [("held_out_loss", 3), ("loss", 1), ("loss", 2), ("loss", 3), ("loss", 4)]


class Board(Fake):
    """Stands where accelerate's class for trackio does."""

    name = "trackio"

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.project = given[0]


def trackio_that_holds(monkeypatch: pytest.MonkeyPatch, get_logs: Any) -> None:
    """The store of trackio, asked as it is by trackio itself."""
    monkeypatch.setitem(sys.modules, "trackio", ModuleType("trackio"))
    module = ModuleType("trackio.sqlite_storage")
    module.SQLiteStorage = SimpleNamespace(get_logs=get_logs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", module)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "trackio", Board)
    monkeypatch.setattr(Fake, "said", [])


def logged() -> list[tuple[int, dict[str, Any]]]:
    return [value for what, value in Fake.said if what == "log"]


def test_steps_that_are_done_again_stand_in_trackio_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(project: str, run: str) -> list[dict[str, Any]]:
        assert (project, run) == ("demo", "chat-0123456789ab")
        return [{"step": step, "timestamp": "now", **values} for step, values in logged()]

    trackio_that_holds(monkeypatch, stored)
    monkeypatch.setitem(SHOW, "trackio", lambda tracker, step, title, columns, rows: tracker.log({title: rows}, step=step))
    for steps in ((1, 2, 3), (2,), (2, 3, 4)):
        record = Metrics(tmp_path, trackers=Trackers(job(tmp_path, "trackio")))
        for step in steps:
            record.log(step, 4, loss=float(step))
            record.trackers.samples(step, "samples", ["prompt"], [["Hi"]])
    sent = sorted((key, step) for step, values in logged() for key in values if key in ("loss", "samples"))
    assert sent == [(key, step) for key in ("loss", "samples") for step in (1, 2, 3, 4)]


def test_a_tracker_that_cannot_say_what_it_has_goes_on_and_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackio_that_holds(monkeypatch, lambda project: [])
    Metrics(tmp_path, trackers=Trackers(job(tmp_path, "trackio"))).log(1, 1, loss=1.0)
    assert [step for step, _ in logged()] == [1]
    assert (
        "warning: trackio does not say what it has of this stage; steps that are done again may stand there twice: "
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("fails", ["start", "log"])
def test_a_tracker_that_fails_is_told_once_and_the_record_goes_on(
    tmp_path: Path, fake: type[Fake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    monkeypatch.setattr(fake, "fails", fails)
    record = Metrics(tmp_path, trackers=Trackers(job(tmp_path, "wandb")))
    for step in (1, 2, 3):
        record.log(step, 3, loss=1.0)
    assert capsys.readouterr().out.count("warning: wandb does not track this stage any more: the page is down") == 1
    assert len(read(tmp_path / "metrics.jsonl")) == 3


def test_without_a_word_in_the_recipe_nothing_is_tracked(tmp_path: Path, fake: type[Fake]) -> None:
    Metrics(tmp_path, trackers=Trackers(job(tmp_path))).log(1, 1, loss=1.0)
    Metrics(tmp_path, writes=False, trackers=Trackers(job(tmp_path, "wandb"), writes=False)).log(1, 1, loss=1.0)
    assert fake.said == []
    assert not (tmp_path / "demo" / "track").exists()


def test_tensorboard_holds_numbers_and_samples_and_a_resumed_attempt_takes_the_place_of_the_lost_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    orders = job(tmp_path, "tensorboard")
    first = Metrics(orders.folder, trackers=Trackers(orders))
    for step in (1, 2, 3):
        first.log(step, 4, loss=float(step))
    resumed = Metrics(orders.folder, trackers=Trackers(orders))
    resumed.rewind(2)
    resumed.log(3, 4, loss=30.0)
    resumed.trackers.samples(3, "samples", ["prompt", "answer"], [["a|b", "<script>\n"]])
    found = EventAccumulator(str(tmp_path / "demo" / "track" / orders.folder.name)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert {"seconds", "memory_bytes"} <= set(found.Tags()["scalars"])
    [text] = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("samples/text_summary")]
    assert text.endswith("| a\\|b | <script> ⏎  |")
    settings = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(settings.strip("`json\n"))["epochs"] == 2
