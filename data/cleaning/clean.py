"""One document through all that needs nothing but the document, and a batch of them with what finds copies later."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.cleaning.config import Cleaning
from data.cleaning.copies import PERMUTATIONS, digest_of, signature_of
from data.cleaning.lines import scrubbed, split_text, without_lines
from data.cleaning.overlap import Exams
from data.cleaning.repair import repaired
from data.cleaning.report import Report
from data.cleaning.rules import broken
from data.cleaning.words import Words, plain_hashes

EMPTY, LANGUAGE, EXAM = "empty", "language", "exam"
"""Names of what removes a document besides the rules."""


@dataclass
class Cleaned:
    """Documents that stay, a number and a signature for each, and what was done."""

    texts: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    digests_N2: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    signatures_NP: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, PERMUTATIONS), np.uint32))
    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class Cleaner:
    """The settings, ready to work."""

    settings: Cleaning
    exams: Exams
    names: Sequence[str]
    """Of the sources, for examples."""

    def batch(self, documents: Iterable[tuple[int, str]]) -> Cleaned:
        """Documents by number of source and text."""
        found = Cleaned()
        digests, signatures = [], []
        for source, text in documents:
            for part, hashes in self._parts(source, text, found.report):
                found.texts.append(part)
                found.sources.append(source)
                digests.append(digest_of(hashes))
                if self.settings.copies.near is not None:
                    signatures.append(signature_of(hashes))
        if digests:
            found.digests_N2 = np.stack(digests)
        if signatures:
            found.signatures_NP = np.stack(signatures)
        return found

    def _parts(self, source: int, text: str, report: Report) -> list[tuple[str, NDArray[np.uint64]]]:
        """What stays of a document, with the numbers of its plain words."""
        name, settings = self.names[source], self.settings
        report.documents += 1
        report.characters += len(text)
        clean = repaired(text) if settings.repair else text
        report.repaired += clean != text.strip()
        if settings.lines is not None:
            clean, gone = without_lines(clean, settings.lines)
            report.lines += gone
        if (reason := self._reason(clean)) is not None:
            report.remove(reason[0], name, reason[1], clean or text)
            return []
        hashes = plain_hashes(clean)
        if shared := self.exams.overlap(hashes):
            report.remove(EXAM, name, shared, clean)
            return []
        if settings.scrub:
            clean, count = scrubbed(clean, settings.scrub)
            report.scrubbed += count
        if settings.longest is None or len(clean) <= settings.longest:
            return [(clean, hashes)]
        report.split += 1
        return [(part, plain_hashes(part)) for part in split_text(clean, settings.longest)]

    def _reason(self, text: str) -> tuple[str, float] | None:
        """Why a document goes, if it does."""
        if not text or text.isspace():
            return EMPTY, 0.0
        if self.settings.language:
            from data.cleaning.language import language_of

            if language_of(text) not in self.settings.language:
                return LANGUAGE, 0.0
        return broken(Words(text), self.settings.rules) if self.settings.rules is not None else None
