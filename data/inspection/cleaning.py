"""What cleaning would do to the records that are looked at: the corpus stage's own code, on these alone."""

from collections.abc import Sequence

import numpy as np

from data.cleaning.clean import Cleaner
from data.cleaning.config import Cleaning
from data.cleaning.copies import Bands, Signatures, exact_copies, near_copies
from data.cleaning.overlap import exams_of
from data.formats import Text
from data.inspection.reading import Section
from data.inspection.report import Cleaned, Gone


def cleaned(section: Section, exams: Sequence[Section], settings: Cleaning) -> Cleaned:
    """Counts and an example for each rule. Copies are those among the records looked at; in the whole corpus there are more."""
    texts = [record.text for other in exams for record in other.records if isinstance(record, Text)]
    cleaner = Cleaner(settings, exams_of(texts, settings.overlap), [source.path for source in section.sources])
    batch = cleaner.batch((entry.source, entry.record.text) for entry in section.entries if isinstance(entry.record, Text))
    report, count = batch.report, len(batch.texts)
    exact = exact_copies(batch.digests_N2) if settings.copies.exact and count else np.zeros(count, np.bool_)
    near = np.zeros(count, np.bool_)
    if settings.copies.near is not None and count:
        keys = Bands.of(settings.copies.near).keys(batch.signatures_NP)
        near = near_copies([[band] for band in keys], Signatures([batch.signatures_NP]), exact, settings.copies.near)
    for text, source, same, alike in zip(batch.texts, batch.sources, exact, near, strict=True):
        if same or alike:
            report.remove("exact_copies" if same else "near_copies", cleaner.names[source], 0.0, text)
        else:
            report.keep(text)
    gone = [
        Gone(
            rule=rule,
            documents=found.documents,
            share=found.documents / report.documents,
            measure=found.examples[0][1],
            example=found.examples[0][2],
        )
        for rule, found in sorted(report.removed.items(), key=lambda item: -item[1].documents)
    ]
    return Cleaned(done=tuple(report.sentences()), gone=tuple(gone))
