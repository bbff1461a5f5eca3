"""Lengths, packing, duplicates and leaks. Pure: numbers and records in, numbers out."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from data.formats import Chat, Message, Preference, Prompt, Record, Text
from data.inspection.report import Bin, Lengths, Packing
from data.packing import cut, pack
from data.records import content_key, plain

BINS = 12


def lengths_of(sizes: Sequence[int], unit: Literal["tokens", "characters"]) -> Lengths:
    """Summary and histogram of the sizes of sequences."""
    ordered = sorted(sizes)
    count, total = len(ordered), sum(ordered)
    p50, p90, p99 = (_quantile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Lengths(
        unit=unit,
        count=count,
        total=total,
        shortest=ordered[0] if ordered else 0,
        median=p50,
        mean=total / count if count else 0.0,
        p90=p90,
        p99=p99,
        longest=ordered[-1] if ordered else 0,
        bins=tuple(_bins(ordered, p99)),
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest size that at least this share of the sequences does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def _bins(ordered: Sequence[int], p99: int) -> Iterable[Bin]:
    """At most a dozen and one bins of a round width; the last one takes a long tail in."""
    if not ordered:
        return
    longest = ordered[-1]
    top = longest if longest <= 3 * p99 else p99
    width = _round_up(max(1, math.ceil((top - ordered[0] + 1) / BINS)))
    low = ordered[0] // width * width
    place = 0
    while low <= longest:
        high = min(low + width - 1, longest) if low <= top else longest
        end = place
        while end < len(ordered) and ordered[end] <= high:
            end += 1
        yield Bin(low=low, high=high, count=end - place)
        low, place = high + 1, end


def _round_up(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    scale = int(10 ** (len(str(width)) - 1))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= width)


def packing_of(sizes: Sequence[int], capacity: int, *, cuts: bool) -> Packing:
    """Best-fit packing into rows of `capacity`; a longer sequence is cut into pieces where `cuts`, and else takes no part."""
    pieces = [end - begin for size in sizes for begin, end in (cut(size, capacity) if cuts else [(0, size)] if size <= capacity else [])]
    rows, longest, total = len(pack(pieces, capacity)), max(pieces, default=0), sum(pieces)
    return Packing(
        capacity=capacity,
        rows=rows,
        efficiency=total / (rows * capacity) if rows else 0.0,
        padding=1 - total / (len(pieces) * longest) if total else 0.0,
    )


def prompt_key(record: Record) -> str:
    """What makes two prompts the same: of a chat, all before its last answer."""
    if not isinstance(record, Chat):
        return content_key(record)
    answers = [index for index, message in enumerate(record.messages) if message["role"] == "assistant"]
    return content_key(Prompt(record.messages[: answers[-1]] if answers else record.messages))


def whole_key(record: Record) -> str:
    """What makes two records the same: everything in them, case and punctuation aside."""
    if isinstance(record, Preference):
        return "\n\n".join([content_key(record), _key(record.chosen), _key(record.rejected)])
    return content_key(record)


def _key(messages: Sequence[Message]) -> str:
    return "\n".join(plain(str(message["content"])) for message in messages)


def duplicates(records: Iterable[Record]) -> int:
    """Records whose content an earlier one has."""
    keys = [hash(whole_key(record)) for record in records]
    return len(keys) - len(set(keys))


def contradictions(records: Iterable[Record]) -> int:
    """Pairs that stand in the data the other way round too."""
    keys = [
        (content_key(record), _key(record.chosen), _key(record.rejected))
        for record in records
        if isinstance(record, Preference) and record.chosen != record.rejected
    ]
    known = set(keys)
    return sum((prompt, rejected, chosen) in known for prompt, chosen, rejected in keys)


def characters(record: Record) -> int:
    """Size of a record where there is no tokenizer."""
    if isinstance(record, Text):
        return len(record.text)
    messages = [*record.prompt, *record.chosen] if isinstance(record, Preference) else record.messages
    return sum(len(str(message["content"])) for message in messages)


def shares(sizes: Iterable[int], sources: Iterable[int], weights: Sequence[float]) -> list[float]:
    """Each source's share of the whole, weights applied."""
    totals = [0.0] * len(weights)
    for size, source in zip(sizes, sources, strict=True):
        totals[source] += size * weights[source]
    whole = sum(totals)
    return [total / whole if whole else 0.0 for total in totals]
