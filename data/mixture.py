"""How often each record comes in an epoch: weights, sub-sampling and temperature. Pure; imports nothing heavy.

The order in which records come is another matter (`data.order`): it depends on the seed and the epoch, never on the number of processes.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from data.errors import DataError

S = TypeVar("S")


def repeated(records: list[S], weight: float) -> list[S]:
    """Each record `weight` times an epoch; the fraction is a fixed draw of records, kept in order."""
    return [records[index] for index in taken(len(records), weight)]


def taken(count: int, weight: float) -> list[int]:
    """Places of the records that an epoch takes of a source of `count`: 3 takes each three times, 0.5 half of them, the same half each time."""
    times, part = int(weight), weight - int(weight)
    drawn = sorted(Random(count).sample(range(count), round(part * count)))
    return list(range(count)) * times + drawn


def check_weight(name: str, count: int, weight: float) -> None:
    """Raise DataError for a weight so small that it takes no record: the source would be missing without a word."""
    if count and not round((weight - int(weight)) * count) and weight < 1:
        raise DataError(
            f"{name}: a weight of {weight:g} takes none of its {count:,} records; wanted at least {0.5 / count:.2g}, or leave the source out"
        )


def tempered(counts: Sequence[int], weights: Sequence[float], temperature: float) -> list[float]:
    """Weights under a temperature T: a source's share of the epoch becomes proportional to its share to the power of 1/T (mT5, Xue et al. 2021).

    1 changes nothing, larger ones bring small sources up. The epoch keeps its size. `counts` are the sources' records.
    """
    sizes = [count * weight for count, weight in zip(counts, weights, strict=True)]
    whole = sum(sizes)
    if temperature == 1 or not whole:
        return list(weights)
    powers = [(size / whole) ** (1 / temperature) for size in sizes]
    return [
        weight * power * whole / (sum(powers) * size) if size else weight
        for weight, power, size in zip(weights, powers, sizes, strict=True)
    ]


def shares(counts: Sequence[int], weights: Sequence[float]) -> list[float]:
    """Each source's share of the epoch's records."""
    sizes = [count * weight for count, weight in zip(counts, weights, strict=True)]
    return [size / max(sum(sizes), 1e-9) for size in sizes]
