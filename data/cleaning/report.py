"""What cleaning did: counts and a few examples for each rule. Plain values that add up."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 3
"""Removed documents of each rule that are shown."""
SHOWN = 120
"""Characters of an example."""


@dataclass
class Removed:
    """Documents that one rule removed."""

    documents: int = 0
    characters: int = 0
    examples: list[tuple[str, float, str]] = field(default_factory=list)
    """Source, measure, and how the document begins."""

    def add(self, source: str, value: float, text: str) -> None:
        self.documents += 1
        self.characters += len(text)
        if len(self.examples) < EXAMPLES:
            self.examples.append((source, value, shown(text)))


@dataclass
class Report:
    """Counts over documents."""

    documents: int = 0
    characters: int = 0
    kept: int = 0
    kept_characters: int = 0
    repaired: int = 0
    """Documents that repair changed."""
    lines: int = 0
    """Lines taken out."""
    scrubbed: int = 0
    """Pieces of personal data replaced."""
    split: int = 0
    """Documents that were split."""
    removed: dict[str, Removed] = field(default_factory=dict)

    def remove(self, rule: str, source: str, value: float, text: str) -> None:
        self.removed.setdefault(rule, Removed()).add(source, value, text)

    def keep(self, text: str) -> None:
        self.kept += 1
        self.kept_characters += len(text)

    def merge(self, other: "Report") -> None:
        for name in ("documents", "characters", "kept", "kept_characters", "repaired", "lines", "scrubbed", "split"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for rule, found in other.removed.items():
            mine = self.removed.setdefault(rule, Removed())
            mine.documents += found.documents
            mine.characters += found.characters
            mine.examples = [*mine.examples, *found.examples][:EXAMPLES]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Report":
        removed = {
            rule: Removed(**{**found, "examples": [(str(source), float(value), str(text)) for source, value, text in found["examples"]]})
            for rule, found in plain["removed"].items()
        }
        return cls(**{**plain, "removed": removed})

    def sentences(self) -> Iterator[str]:
        """What was done, for a log."""
        kept = self.kept_characters / max(1, self.characters)
        yield f"{self.documents:,} documents read, {self.kept:,} kept with {kept:.1%} of the characters"
        done = [
            f"{count:,} {what}"
            for count, what in (
                (self.repaired, "documents repaired"),
                (self.lines, "lines taken out"),
                (self.scrubbed, "pieces of personal data replaced"),
                (self.split, "documents split"),
            )
            if count
        ]
        if done:
            yield "; ".join(done)


def shown(text: str) -> str:
    text = " ".join(text[: 4 * SHOWN].split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
