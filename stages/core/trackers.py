"""Trackers that a recipe asks for (`track:`): what `metrics.jsonl` records goes to TensorBoard, Weights & Biases, trackio and MLflow too.

They are accelerate's own, so that names, offline modes and logins are those that each tool documents. What stays on this machine lies in `track/` of
the run. A tracker that cannot start or that fails is told once and left alone: no training ends because a web page is down.
"""

import atexit
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.secrets import redact
from stages.contract import Job

LONGEST_SETTING = 250
"""Characters; MLflow takes no longer ones."""


class Trackers:
    """The trackers of one stage, opened at its first line. Only the process that writes the record holds any."""

    def __init__(self, job: Job | None = None, *, writes: bool = True) -> None:
        self._job = job
        self._names = job.track if job is not None and writes else ()
        self._open: dict[str, Any] | None = None
        self._sent: dict[str, dict[str, int]] = {}
        """By tracker: the last step of each number that an earlier attempt sent, where the tracker would keep it twice."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """One line of numbers; what is not finite is left out."""
        numbers = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

        def send(name: str, tracker: Any) -> None:
            # A resumed attempt does steps again, and gets the same numbers.
            new = {key: value for key, value in numbers.items() if step > self._sent[name].get(key, -1)}
            if new:
                tracker.log(new, step=step)

        self._each(step, send)

    def samples(self, step: int, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A small table of texts: what the model says at this step. What looks like a secret is blotted out: pages are seen by many."""
        safe = [[redact(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]

        def show(name: str, tracker: Any) -> None:
            if step > self._sent[name].get(title, -1):
                SHOW[name](tracker, step, title, list(columns), safe)

        self._each(step, show)

    def _each(self, step: int, call: Callable[[str, Any], None]) -> None:
        if not self._names:
            return
        if self._open is None:
            self._open = self._started(step)
        for name, tracker in list(self._open.items()):
            if not _tried(name, lambda name=name, tracker=tracker: call(name, tracker)):  # type: ignore[misc]
                del self._open[name]

    def _started(self, step: int) -> dict[str, Any]:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # whose absence accelerate's trackers complain of; PPO has none of its own
        assert self._job is not None  # noqa: S101 - there are names only where there is a job
        job = self._job
        found: dict[str, Any] = {}
        local = job.folder.parent / "track"
        local.mkdir(exist_ok=True)
        for name in self._names:

            def start(name: str = name) -> None:
                given, named = OPEN[name](job, local, step)
                tracker = LOGGER_TYPE_TO_CLASS[name](*given, **named)
                tracker.main_process_only = False  # this is the main process; accelerate would ask a state that PPO does not have
                tracker.start()
                found[name] = tracker
                self._sent[name] = _known(name, tracker, named)
                DESCRIBE[name](tracker, job)

            if _tried(name, start):
                atexit.register(_tried, name, found[name].finish)
        return found


def _known(name: str, tracker: Any, named: Mapping[str, Any]) -> dict[str, int]:
    """What a tracker has already of this stage; nothing where it cannot say, which is told: better a step twice than none."""
    try:
        return SENT[name](tracker, named) if name in SENT else {}
    except Exception as error:
        print(
            f"warning: {name} does not say what it has of this stage; steps that are done again may stand there twice: {_first_line(error)}",
            flush=True,
        )
        return {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _tried(name: str, call: Callable[[], None]) -> bool:
    """Whether it went well; what went wrong is told."""
    try:
        call()
    except (Exception, SystemExit) as error:
        print(f"warning: {name} does not track this stage any more: {_first_line(error)}", flush=True)
        return False
    return True


Opening = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of an accelerate tracker: positional and named."""


def _tensorboard(job: Job, local: Path, step: int) -> Opening:
    # Of an attempt that was cut off, lines after its checkpoint are drawn anew.
    return (job.folder.name, local), {"purge_step": step}


def _wandb(job: Job, local: Path, step: int) -> Opening:
    identity = f"{job.folder.parent.name}-{job.folder.name}"
    return (job.folder.parent.name,), {"name": job.folder.name, "id": identity, "resume": "allow", "dir": str(local)}


def _trackio(job: Job, local: Path, step: int) -> Opening:
    return (job.folder.parent.name,), {"name": job.folder.name, "resume": "allow"}


def _mlflow(job: Job, local: Path, step: int) -> Opening:
    import mlflow

    place = None
    if not mlflow.tracking.is_tracking_uri_set():
        mlflow.set_tracking_uri(f"sqlite:///{local / 'mlflow.db'}")
        place = (local / "mlflow").as_uri()
    # MLflow gives a run its identity; a later attempt of the stage goes on in the run that the first one began.
    noted = _noted_run(job)
    begun = noted.read_text(encoding="utf-8").strip() if noted.is_file() else None
    return (job.folder.parent.name, place), {"run_name": job.folder.name, "run_id": begun}


def _sent_to_mlflow(tracker: Any, named: Mapping[str, Any]) -> dict[str, int]:
    """By number, the last step that a run has which goes on."""
    if not named["run_id"]:
        return {}
    import mlflow

    client, run = mlflow.tracking.MlflowClient(), named["run_id"]
    return {key: max(one.step for one in client.get_metric_history(run, key)) for key in client.get_run(run).data.metrics}


def _sent_to_trackio(tracker: Any, named: Mapping[str, Any]) -> dict[str, int]:
    """By number or table, the last step that the store on this machine has; a Space is not asked, since trackio has no call that reads one back."""
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[str, int] = {}
    for line in SQLiteStorage.get_logs(tracker.tracker.project, named["name"]):
        for key in line.keys() - {"step", "timestamp"}:
            found[key] = max(found.get(key, -1), int(line["step"]))
    return found


SENT: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, int]]] = {"mlflow": _sent_to_mlflow, "trackio": _sent_to_trackio}
"""Trackers that keep a step twice which is sent twice: TensorBoard drops what it had, Weights & Biases what comes again."""


def _noted_run(job: Job) -> Path:
    return job.folder / "mlflow-run.txt"


OPEN: dict[str, Callable[[Job, Path, int], Opening]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}


def _settings_as_text(tracker: Any, job: Job) -> None:
    """TensorBoard's own table of hyper-parameters makes a run of its own for each; a page of text is what people find."""
    tracker.log({"settings": "```json\n" + redact(json.dumps(job.config, indent=1, ensure_ascii=False)) + "\n```"}, step=0)


def _settings(tracker: Any, job: Job) -> None:
    flat = {"stage": job.stage, "kind": job.kind, "seed": job.seed, **dict(_flat("", job.config))}
    safe = {name: redact(value) if isinstance(value, str) else value for name, value in flat.items()}
    tracker.store_init_configuration({name: value for name, value in safe.items() if len(str(value)) <= LONGEST_SETTING})


def _settings_and_run(tracker: Any, job: Job) -> None:
    _settings(tracker, job)
    _noted_run(job).write_text(tracker.tracker.info.run_id, encoding="utf-8")


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [one for key, inner in value.items() for one in _flat(f"{prefix}.{key}" if prefix else str(key), inner)]
    return [(prefix, value if isinstance(value, bool | int | float | str) or value is None else json.dumps(value))]


DESCRIBE: dict[str, Callable[[Any, Job], None]] = {
    "tensorboard": _settings_as_text,
    "wandb": _settings,
    "trackio": _settings,
    "mlflow": _settings_and_run,
}

Show = Callable[[Any, int, str, list[str], list[list[str | float]]], None]


def _as_page(tracker: Any, step: int, title: str, columns: list[str], rows: list[list[str | float]]) -> None:
    tracker.log({title: _markdown(columns, rows)}, step=step)


def _as_wandb_table(tracker: Any, step: int, title: str, columns: list[str], rows: list[list[str | float]]) -> None:
    tracker.log_table(title, columns=columns, data=rows, step=step)


def _as_trackio_table(tracker: Any, step: int, title: str, columns: list[str], rows: list[list[str | float]]) -> None:
    import pandas
    import trackio

    tracker.log({title: trackio.Table(dataframe=pandas.DataFrame(rows, columns=columns))}, step=step)


def _as_mlflow_text(tracker: Any, step: int, title: str, columns: list[str], rows: list[list[str | float]]) -> None:
    import mlflow

    mlflow.log_text(_markdown(columns, rows), f"{title}/step-{step:06d}.md")


SHOW: dict[str, Show] = {
    "tensorboard": _as_page,
    "wandb": _as_wandb_table,
    "trackio": _as_trackio_table,
    "mlflow": _as_mlflow_text,
}


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    def line(cells: Sequence[str | float]) -> str:
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|").replace("\n", " ⏎ ") for cell in cells]
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *(line(row) for row in rows)])
