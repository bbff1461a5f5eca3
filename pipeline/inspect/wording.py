"""The words of a report, the same on a terminal and on a page. Pure."""

import unicodedata
from collections.abc import Iterator

from data.inspection.report import Bin, Cleaned, Part, Report

NOUNS = {"text": "text", "chat": "chats", "preference": "preference pairs", "prompt": "prompts", None: "rows"}
TURNING = frozenset(range(0x202A, 0x202F)) | frozenset(range(0x2066, 0x206A))
"""Characters that turn the direction of what follows: text with them can look like another text."""
TOP = 5
"""Sources that are named."""


def harmless(text: str) -> str:
    """Data for a terminal: control characters become their pictures, so that no row can move the cursor or colour the screen."""
    return "".join(_picture(sign) for sign in text)


def _picture(sign: str) -> str:
    code = ord(sign)
    if sign == "\n" or (unicodedata.category(sign) not in ("Cc", "Cs") and code not in TURNING):
        return sign
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def headline(report: Report) -> str:
    """What is shown, through whose eyes."""
    nouns = " and ".join(dict.fromkeys(NOUNS[part.wants] for part in report.parts))
    eyes = f"as the tokenizer of '{report.tokenizer}' writes them" if report.tokenizer else "without tokens"
    context = f", at most {report.context:,} tokens long" if report.context and report.tokenizer else ""
    return f"{report.stage}: {nouns}, {eyes}{context}"


def legend(report: Report, learned: str) -> str:
    if report.tokenizer is None:
        return "Without a tokenizer it is not known what is learned."
    if all(part.wants == "prompt" for part in report.parts):
        return "Nothing of a prompt is learned; the model's answer follows after the last token."
    verb = "compared" if any(part.wants == "preference" for part in report.parts) else "learned"
    return f"What is {verb} is shown like {learned}; all else is only read."


def judged(report: Report) -> str:
    errors, warnings = report.count("error"), report.count("warning")
    return f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}" if errors or warnings else "nothing looks wrong"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def figures(part: Part) -> Iterator[tuple[str, str]]:
    """The numbers of a part, by name."""
    lengths, packing = part.lengths, part.packing
    yield "records", f"{part.records:,}{f', {part.duplicates:,} of them repeat earlier ones' if part.duplicates else ', no duplicates'}"
    yield lengths.unit, f"{lengths.total:,} in all"
    yield (
        "length",
        f"{lengths.shortest:,} to {lengths.longest:,}, median {lengths.median:,}, mean {lengths.mean:,.1f}, 90 % ≤ {lengths.p90:,}, 99 % ≤ {lengths.p99:,}",
    )
    if part.cleaned is not None:
        yield from _cleaned(part.cleaned)
    if part.learned is not None:
        yield "compared" if part.wants == "preference" else "learned", f"{part.learned:.1%} of the tokens"
    if part.shared is not None:
        yield "shared", f"{part.shared:.1%} of the tokens stand in both conversations of a pair and are computed once"
    if packing is not None:
        rows = f"{packing.rows:,} rows of {packing.capacity:,}"
        yield "packing", f"{rows}, {packing.efficiency:.1%} full; a row for each would be {packing.padding:.1%} padding"
    for number, origin in enumerate(part.origins[:TOP]):
        weight = f", weight {origin.weight:g}" if origin.weight != 1 else ""
        text = f"{harmless(origin.path)}: {origin.records:,} records, {origin.share:.1%} of the {lengths.unit}{weight}"
        yield "sources" if not number else "", text
    if len(part.origins) > TOP:
        yield "", f"and {len(part.origins) - TOP} more"


def span(bin: Bin) -> str:
    return f"{bin.low:,}–{bin.high:,}" if bin.high > bin.low else f"{bin.low:,}"


def _cleaned(found: Cleaned) -> Iterator[tuple[str, str]]:
    """What cleaning does, and what each rule removes with the measure and the beginning of one such document."""
    for number, sentence in enumerate(found.done):
        yield "" if number else "cleaned", sentence
    for number, gone in enumerate(found.gone):
        measure = f" ({gone.measure:.3g})" if gone.measure else ""
        yield "" if number else "removed", f"{gone.rule} {gone.documents:,} ({gone.share:.1%}), such as{measure}: {harmless(gone.example)}"
