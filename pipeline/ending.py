"""How an attempt ended, and who failed first.

A launcher turns every exit code into 1 and prints what each process said last, in any order. The processes therefore leave notes beside their
log (`failed-RANK.json`, `stacks-RANK.txt`), and a process that was killed is named by the launcher's summary.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.secrets import redact
from pipeline.store import Attempt
from stages.contract import AGAIN, DONE, FAILED, INTERRUPTED, WRONG_INPUT

LOG_LINES = 15
"""Shown of the log of a stage that failed."""
LOG_BYTES = 16_384
KILLED = re.compile(r"rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-(\d+)")
"""A process that a signal ended, in the summary of torch's launcher."""
REPORT = re.compile(r"^E\d{4} \S+ \d+ torch/distributed/elastic/.*?ChildFailedError:.*?\n=+\n.*?\n=+(?:\n|$)", re.DOTALL | re.MULTILINE)
"""What torch's launcher says once a process has failed: it would push that process's own last words out of sight."""
LAUNCHERS = (15,)
"""The signal by which a launcher ends the others."""


@dataclass(frozen=True)
class Ending:
    """What became of one attempt."""

    code: int
    how: str
    """A clause: `failed (exit code 1)`."""
    first: str = ""
    """The words of the process that failed first, where they are not simply the log's last."""
    known: bool = False
    """Whether the stage itself says why it ended."""
    unforeseen: bool = False
    """Whether another attempt may go better: a crash, a kill or a hang, and not what the stage itself decided."""


def ending(attempt: Attempt, code: int, *, stopped: str = "") -> Ending:
    """How an attempt ended whose command gave `code` (below zero: a signal). `stopped`: what asked it to end, if anything did."""
    if code == DONE:
        return Ending(DONE, "ended well")
    notes = sorted(_notes(attempt.folder), key=lambda note: float(note["at"]))
    if (note := _telling(notes)) is not None:
        after = f", after {stopped}" if stopped and note["code"] == FAILED else ""
        how = _how(note["code"], stopped="" if note["code"] == FAILED else stopped)
        return Ending(note["code"], how + after, _said(note, notes), known=True)
    if (stacks := [file for file in sorted(attempt.folder.glob("stacks-*.txt")) if file.stat().st_size]) and not stopped:
        who = ", ".join(file.stem.removeprefix("stacks-") for file in stacks)
        where = f"attempts/{attempt.number}/{'stacks-*.txt' if len(stacks) > 1 else stacks[0].name}"
        hung = f"process {who} took no step within hardware.step_timeout; what each of its threads did then is in {where}"
        return Ending(FAILED, "hung and was ended", hung, unforeseen=True)
    killed = [(int(rank), int(number)) for rank, number in KILLED.findall(_tail(attempt.log)) if int(number) not in LAUNCHERS]
    if killed:
        rank, number = killed[0]
        return Ending(FAILED, _how(FAILED, stopped=stopped), f"process {rank} was ended by signal {number}", unforeseen=True)
    if notes:
        return Ending(notes[0]["code"], _how(notes[0]["code"], stopped=stopped), _said(notes[0], notes), unforeseen=True)
    return Ending(code, _how(code, stopped=stopped), known=code == WRONG_INPUT, unforeseen=True)


def last_lines(log: Path, secrets: Sequence[str] = ()) -> list[str]:
    """The end of a log, without secrets and without the launcher's report on its processes."""
    return redact(REPORT.sub("", _tail(log)), secrets).splitlines()[-LOG_LINES:]


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - LOG_BYTES))
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _notes(folder: Path) -> Iterator[dict[str, Any]]:
    for file in folder.glob("failed-*.json"):
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and {"rank", "code", "sentence", "known", "at"} <= found.keys():
            yield found


def _telling(notes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the stage itself has to say: of several processes the first, but for one that stopped as it was asked while another could not."""
    known = [note for note in notes if note["known"]]
    return next((note for note in known if note["code"] != INTERRUPTED), next(iter(known), None))


def _said(note: dict[str, Any], notes: Sequence[dict[str, Any]]) -> str:
    """Alone, a process's last words are the log's last line. One that tells of another node tells nothing of itself."""
    if note.get("lost"):
        return str(note["sentence"])
    alone = len(notes) == 1 and note["rank"] == 0
    return "" if alone else f"process {note['rank']} failed first: {note['sentence']}"


def _how(code: int, *, stopped: str) -> str:
    if stopped and code not in (WRONG_INPUT, AGAIN):  # what the stage itself had found to say
        return f"was stopped by {stopped}, {'after a' if code == INTERRUPTED else 'without a new'} checkpoint"
    if code < 0:
        return f"was ended by signal {-code}"
    words = {
        WRONG_INPUT: "found its data or settings wrong (exit code 2)",
        AGAIN: "rolled back after a divergence",
        INTERRUPTED: "was interrupted after a checkpoint",
    }
    return words.get(code, f"failed (exit code {code})")
