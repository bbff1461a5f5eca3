"""The live record of a stage: `metrics.jsonl`, one JSON object a logged step, followed by the orchestrator and by plots."""

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

from stages.core.files import write_text
from stages.core.trackers import Trackers


class Metrics:
    """Appends lines to `folder/metrics.jsonl`. Only one process of a stage may write; the others pass `writes=False`."""

    def __init__(self, folder: Path, *, writes: bool = True, trackers: Trackers | None = None) -> None:
        self._path = folder / "metrics.jsonl"
        self._writes = writes
        self.trackers = trackers or Trackers()
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Training time over all attempts."""
        return time.monotonic() - self._began

    def log(self, step: int, steps: int, **values: float) -> None:
        """Append one line, with `seconds` and the most memory so far; numbers that are not finite become null. Trackers get the same."""
        if not self._writes:
            return
        line = {
            "step": step,
            "steps": steps,
            "seconds": round(self.seconds(), 3),
            **{name: _number(value) for name, value in values.items()},
            "memory_bytes": most_memory(),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.trackers.log(step, {name: value for name, value in line.items() if name not in ("step", "steps")})

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and torn ones: the work that they record is done again. Time goes on from the last line kept."""
        kept = [line for line in read(self._path) if line["step"] <= step]
        self._began = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)
        if not self._writes or not self._path.exists():
            return
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, oldest first; a line torn by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def most_memory() -> int:
    """Most bytes that this process has held at once: of its CUDA device where it uses one, else of main memory."""
    torch = sys.modules.get("torch")  # a stage without torch has no device
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def losses(folder: Path) -> list[float]:
    """The losses of a stage's record so far, oldest first."""
    return [line["loss"] for line in read(folder / "metrics.jsonl") if isinstance(line.get("loss"), int | float)]


def _number(value: float) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
