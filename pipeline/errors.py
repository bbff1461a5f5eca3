"""What goes wrong in the orchestrator. Every message is written for the person who reads it and is printed without a traceback.

PipelineError
├── RecipeError   the command line, the recipe or the data is wrong; nothing was started   exit 2
├── HeldError     another process works on this run                                          exit 3
└── StoreError    what lies in the run directory cannot be used                              exit 1
    └── LaterFormatError   a later version of this program wrote it
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and what was wanted."""

    where: str
    """`file:line`, or the override on the command line."""
    path: str
    """Dotted path of the field; empty where the file as a whole is meant."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.message) if part)


class PipelineError(Exception):
    """Base of what this program says in one sentence."""


class RecipeError(PipelineError):
    """All that is wrong with a recipe, at once."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        """Each problem once, in the order of the file."""
        self.problems = [Problem("", "", problems)] if isinstance(problems, str) else sorted(dict.fromkeys(problems), key=_by_line)
        super().__init__("\n".join(map(str, self.problems)))


def _by_line(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (problem.where, 0)


class HeldError(PipelineError):
    """Another process holds the run."""


class StoreError(PipelineError):
    """A file in the run directory is not what it should be."""


class LaterFormatError(StoreError):
    """A manifest that a later version of this program wrote."""


def suggestion(found: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing if no known name is near."""
    near = nearest(found, known)
    return f"; did you mean '{near}'?" if near else ""


def nearest(found: object, known: Iterable[str]) -> str | None:
    """The known name that comes nearest, if one is near: by its letters, or by its words' first ones (`lr`, learning_rate)."""
    names = list(map(str, known))
    return next((name for name in names if _initials(name) == str(found)), None) or next(
        iter(difflib.get_close_matches(str(found), names, n=1, cutoff=0.6)), None
    )


def _initials(name: str) -> str:
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def by_nearness(found: object, known: Iterable[str]) -> list[str]:
    """All known names, the nearest first."""
    return sorted(known, key=lambda name: difflib.SequenceMatcher(None, str(found), name).ratio(), reverse=True)
