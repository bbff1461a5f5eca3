"""What an inspection is told (`Task`) and what it found (`Report`). Plain values, JSON on both sides; imports nothing heavy."""

from pathlib import Path
from typing import Literal

from data.cleaning.config import Cleaning
from data.config import Source, Spec

Wanted = Literal["text", "chat", "preference", "prompt"]


class Group(Spec):
    """The sources of one field of a stage's settings."""

    field: str
    wants: Wanted | None
    """Record that the stage makes of each row; None where rows stay as they are."""
    sources: tuple[Source, ...]
    files: tuple[tuple[Path, ...], ...]
    """Resolved files of each source; none for the Hub."""


class Task(Spec):
    """All an inspection is told."""

    stage: str
    groups: tuple[Group, ...]
    tokenizer: str | None = None
    """Folder, or `hub:owner/name[@revision]`."""
    tokenizer_name: str = ""
    """The same as people call it."""
    context: int | None = None
    """Longest sequence of the stage, in tokens."""
    answer_room: int = 0
    """Tokens of it that a prompt leaves free for its answer."""
    learn: Literal["all", "last"] = "all"
    held_out: float | None = None
    """Share of the training records that the stage holds out by their content."""
    cleaning: Cleaning | None = None
    """What the stage does to its first group's documents, where it cleans them; its other groups are exams that must not be in them."""
    samples: int = 3
    """Samples of each part."""
    rows: int = 10_000
    """Records of each source that are looked at."""
    notes: tuple[str, ...] = ()
    """What the asker noticed; told on."""


class Run(Spec):
    """Neighbouring tokens of one sort."""

    text: str
    learned: bool = False
    special: bool = False


class Said(Spec):
    """One sequence of a sample."""

    label: str = ""
    """`chosen` or `rejected` where there are two."""
    runs: tuple[Run, ...]
    tokens: int | None = None
    left_out: int = 0
    """Tokens (without a tokenizer: characters) behind the last run that are not shown."""


class Sample(Spec):
    """One record as the model sees it."""

    part: str
    source: str
    number: int
    """Which record of its part, from 1."""
    said: tuple[Said, ...]


class Bin(Spec):
    """Sequences of `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


class Lengths(Spec):
    """How long sequences are."""

    unit: Literal["tokens", "characters"]
    count: int
    total: int
    shortest: int
    median: int
    mean: float
    p90: int
    p99: int
    longest: int
    bins: tuple[Bin, ...]


class Packing(Spec):
    """What becomes of sequences in rows of the stage's length."""

    capacity: int
    rows: int
    efficiency: float
    """Share of the rows that holds tokens."""
    padding: float
    """Share of padding if each sequence had a row of its own, as long as the longest."""


class Origin(Spec):
    """A source's share."""

    path: str
    records: int
    weight: float
    share: float
    """Of all tokens (without a tokenizer: of all characters), weights applied."""


class Gone(Spec):
    """Documents that one rule of cleaning removes."""

    rule: str
    documents: int
    share: float
    """Of the documents read."""
    measure: float
    """The example's."""
    example: str
    """How the first one begins."""


class Cleaned(Spec):
    """What cleaning does to the records that are looked at."""

    done: tuple[str, ...]
    gone: tuple[Gone, ...]
    """The rule that removes most first."""


class Part(Spec):
    """Training records, held-out ones, or the records of another field."""

    name: str
    wants: Wanted | None
    records: int
    duplicates: int
    """Records whose content, case and punctuation aside, an earlier record has."""
    origins: tuple[Origin, ...]
    lengths: Lengths
    learned: float | None = None
    """Share of the tokens that is learned (of pairs: of the answers that are compared); None where nothing is learned, or no tokenizer is at hand."""
    packing: Packing | None = None
    shared: float | None = None
    """Of pairs: share of the tokens that both conversations begin with, which are computed once."""
    cleaned: Cleaned | None = None
    """Of text that the stage cleans."""


class Judgement(Spec):
    """A verdict and the part that it is about."""

    level: Literal["error", "warning"]
    name: str
    part: str
    text: str


class Report(Spec):
    """What an inspection found."""

    stage: str
    tokenizer: str | None
    """As people call it; None if samples are shown without one."""
    context: int | None
    notes: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    parts: tuple[Part, ...]
    samples: tuple[Sample, ...]

    def count(self, level: str) -> int:
        return sum(judgement.level == level for judgement in self.judgements)
