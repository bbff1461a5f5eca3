"""What a run shows while it works: a live line on a terminal, plain lines in a file."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

UNSHOWN = ("step", "steps", "seconds", "tokens", "epoch", "time", "memory_bytes")
MOST = 5


class Tail:
    """Reads the lines that a stage has added to its metrics since the last look."""

    def __init__(self, file: Path) -> None:
        self.file = file
        # A resumed stage goes on in the same file; what was there has been shown.
        self.position = file.stat().st_size if file.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        try:
            with self.file.open("rb") as stream:
                if stream.seek(0, 2) < self.position:
                    self.position = 0  # rewritten by a resumed stage
                stream.seek(self.position)
                whole = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self.position += len(whole[0]) + len(whole[1])
        return [record for line in whole[0].splitlines() if (record := parsed(line))]


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def last_record(file: Path) -> dict[str, Any] | None:
    """The newest line of a metrics file, without reading the whole of it."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 65_536))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return None
    return next((record for line in reversed(lines) if (record := parsed(line))), None)


def numbers(record: dict[str, Any]) -> str:
    """The metrics of a record, as many as fit a line."""
    shown = [f"{name} {number(value)}" for name, value in record.items() if name not in UNSHOWN and isinstance(value, int | float)]
    return "  ".join(shown[:MOST])


def number(value: float) -> str:
    """Whole and large numbers in full, others with four digits."""
    whole = float(value).is_integer() or abs(value) >= 1e4
    return f"{value:,.0f}" if whole and abs(value) < 1e12 else f"{value:.4g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.1f} days"


class Pace:
    """Estimates what is left of a stage from the steps of this attempt."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def left(self, record: dict[str, Any]) -> str:
        step, steps = record.get("step"), record.get("steps")
        if not isinstance(step, int | float) or not isinstance(steps, int | float):
            return ""
        at = time.monotonic()
        if self.first is None or step < self.first[0]:
            self.first = (step, at)
        done = step - self.first[0]
        return f"{duration((steps - step) * (at - self.first[1]) / done)} left" if done > 0 and steps > step else ""


class View(Protocol):
    """How a run is shown: sentences between stages, records within one."""

    def say(self, text: str) -> None: ...

    def open(self, stage: str) -> None: ...

    def seen(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Plain:
    """One line every few seconds: for files, pipes and logs of schedulers."""

    def __init__(self, stream: TextIO, every_seconds: float = 10.0) -> None:
        self.stream, self.every_seconds = stream, every_seconds
        self.stage, self.pace, self.last = "", Pace(), 0.0

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def open(self, stage: str) -> None:
        self.stage, self.pace, self.last = stage, Pace(), time.monotonic()

    def seen(self, record: dict[str, Any]) -> None:
        left = self.pace.left(record)
        if time.monotonic() - self.last >= self.every_seconds:
            self.last = time.monotonic()
            self.say("  ".join(part for part in (f"  {self.stage}", position(record), numbers(record), left) if part))

    def close(self) -> None:
        self.stage = ""


def position(record: dict[str, Any]) -> str:
    step, steps = record.get("step"), record.get("steps")
    if step is None:
        return ""
    return f"step {step}/{steps}" if steps else f"step {step}"


class Live:
    """A bar that moves; sentences scroll above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = Console(file=stream, highlight=False)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
        self.task: Any = None
        self.pace = Pace()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def open(self, stage: str) -> None:
        self.pace = Pace()
        self.progress.start()
        self.task = self.progress.add_task(stage, total=None, text="starting")

    def seen(self, record: dict[str, Any]) -> None:
        text = "  ".join(part for part in (position(record), numbers(record), self.pace.left(record)) if part)
        self.progress.update(self.task, total=record.get("steps"), completed=record.get("step"), text=text.replace("[", "\\["))

    def close(self) -> None:
        self.progress.remove_task(self.task)
        self.progress.stop()


def view(stream: TextIO | None = None) -> View:
    """The view that fits where the lines go."""
    stream = stream or sys.stderr
    return Live(stream) if stream.isatty() else Plain(stream)
