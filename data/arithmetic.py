"""Small word problems whose answers a program can check: a data set for rewards that need no reward model.

Text holds equations, right ones; chats hold word problems, answered as GSM8K writes them (the working, then the number after `####`) by someone who
errs in a known share of them; prompts hold problems with the right number as their reference. A share of the sums is `new`: neither text nor chats
nor prompts ever hold them, in any words.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

NAMES = ("Ann", "Bob", "Carla", "David", "Emma", "Felix", "Grace", "Hugo")
THINGS = ("apples", "books", "coins", "cards", "shells", "pens")
WORDS = {
    "+": (
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        "There are {a} {things} in one box and {b} in another. How many {things} are there in all?",
        "{name} finds {a} {things} in the morning and {b} in the evening. How many {things} does {name} find?",
    ),
    "-": (
        "{name} has {a} {things} and gives away {b}. How many {things} are left?",
        "There were {a} {things} on the table and {name} took {b}. How many {things} are on the table now?",
        "{name} needs {a} {things} and has {b}. How many {things} are missing?",
    ),
}


@dataclass(frozen=True)
class Sum:
    a: int
    operation: str
    b: int

    @property
    def result(self) -> int:
        return self.a + self.b if self.operation == "+" else self.a - self.b

    @property
    def carries(self) -> bool:
        """Whether a column of digits carries to the next one, or borrows from it."""
        a, b = (str(number)[::-1] for number in (self.a, self.b))
        columns = zip_longest(map(int, a), map(int, b), fillvalue=0)
        return any(x + y > 9 if self.operation == "+" else y > x for x, y in columns)

    @property
    def working(self) -> str:
        return f"{self.a} {self.operation} {self.b} ="


@dataclass(frozen=True)
class Spec:
    """Sizes and noise."""

    seed: int
    smallest: int
    largest: int
    """Numbers go from `smallest` to this."""
    carry: bool
    """Whether sums that carry or borrow from one column to the next are among them."""
    mistakes: float
    """Share of the chats whose result is wrong."""
    new: float
    """Share of the sums that only the exam asks about."""
    documents: int
    chats: int
    prompts: int
    exam: int


def sums(spec: Spec) -> tuple[list[Sum], list[Sum]]:
    """All sums that are taught, and the new ones. No result is negative."""
    numbers = range(spec.smallest, spec.largest + 1)
    every = [Sum(a, operation, b) for operation in "+-" for a in numbers for b in numbers if operation == "+" or b <= a]
    every = [each for each in every if spec.carry or not each.carries]

    def place(each: Sum) -> float:
        return int.from_bytes(hashlib.sha256(f"{spec.seed} {each.working}".encode()).digest()[:8]) / 2**64

    return [each for each in every if place(each) >= spec.new], [each for each in every if place(each) < spec.new]


def write(folder: Path, spec: Spec) -> dict[str, int]:
    """The files of a data set, a function of the spec alone; rows by file."""
    taught, new = sums(spec)
    files = {
        "text.jsonl": _texts(spec, taught),
        "chats.jsonl": _chats(spec, taught),
        "prompts.jsonl": _prompts(spec, "prompts", {"taught": taught}, spec.prompts),
        "exam.jsonl": _prompts(spec, "exam", {"taught": taught, "new": new}, spec.exam),
    }
    counts = {}
    for name, rows in files.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")
        counts[name] = len(lines)
    return counts


def _texts(spec: Spec, taught: list[Sum]) -> Iterator[dict[str, Any]]:
    random = Random(f"{spec.seed} text")
    for _ in range(spec.documents):
        yield {"text": "\n".join(f"{each.working} {each.result}" for each in random.choices(taught, k=8))}


def _chats(spec: Spec, taught: list[Sum]) -> Iterator[dict[str, Any]]:
    random = Random(f"{spec.seed} chats")
    for _ in range(spec.chats):
        each = random.choice(taught)
        result = each.result
        if random.random() < spec.mistakes:
            result = max(0, result + random.choice((-3, -2, -1, 1, 2, 3))) if result else random.randint(1, 3)
        messages = [("user", _asked(each, random)), ("assistant", f"{each.working} {result}\n#### {result}")]
        yield {"messages": [{"role": role, "content": content} for role, content in messages], "wrong": result != each.result}


def _prompts(spec: Spec, purpose: str, groups: dict[str, list[Sum]], count: int) -> Iterator[dict[str, Any]]:
    """`count` problems, the groups in turn."""
    random = Random(f"{spec.seed} {purpose}")
    for number in range(count):
        group = list(groups)[number % len(groups)]
        each = random.choice(groups[group])
        yield {"prompt": _asked(each, random), "reference": each.result, "group": group}


def _asked(each: Sum, random: Random) -> str:
    words = random.choice(WORDS[each.operation])
    return words.format(name=random.choice(NAMES), things=random.choice(THINGS), a=each.a, b=each.b)
