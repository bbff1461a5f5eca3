"""Preference records as the ids that are scored.

The ids of a prompt with its answer are those of `data.chat.render` up to the end-of-turn token that ends the answer: exactly what a policy has
read and written when it stops. So a reward model is trained on what PPO will ask it about, and an end of turn is always there to be scored.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.chat import Tokens, render, render_all, without_oldest
from data.config import Source
from data.errors import DataError
from data.formats import Chat, Preference
from data.records import content_key, read_records, split
from stages.reward.metrics import Judged
from stages.reward.rows import Pair


@dataclass(frozen=True)
class Named:
    """A preference and where it comes from."""

    source: str
    record: Preference


@dataclass(frozen=True)
class Held:
    """Pairs to learn from and pairs to judge by, and what was decided on the way."""

    training: list[Pair]
    held_out: list[Pair]
    probes: list[Pair]
    notes: list[str]


def read_preferences(sources: Sequence[Source], files: Sequence[Sequence[Path]]) -> tuple[list[Named], list[str]]:
    """All preferences with their sources, and notes. Raises DataError."""
    named: list[Named] = []
    notes: list[str] = []
    for source, paths in zip(sources, files, strict=True):
        found = read_records([source], [paths], Preference)
        named += [Named(Path(source.path).name, record) for record in found.records]
        notes += found.notes
    return named, notes


def divide(data: list[Named], validation: list[Named], share: float) -> tuple[list[Named], list[Named]]:
    """Training and held-out preferences. Without `validation`, a share of the data by the prompts' content, so that no prompt is on both sides."""
    return (data, validation) if validation else split(data, share, key=lambda named: content_key(named.record))


def encode(tokenizer: Any, data: Sequence[Named], max_tokens: int) -> tuple[list[Pair], list[str]]:
    """The pairs as ids, and notes on what was shortened or left out. Raises DataError if no pair is left.

    A prompt that is too long loses its oldest turns; a pair that does not fit without them, or whose answer is not to be learned, is left out.
    """
    chats = [Chat(named.record.prompt + answer) for named in data for answer in (named.record.chosen, named.record.rejected)]
    rendered = render_all(tokenizer, chats, learn="last")
    tokens = dict(zip(rendered.kept, rendered.tokens, strict=True))
    pairs: list[Pair] = []
    shortened = 0
    for number, named in enumerate(data):
        both = (tokens.get(2 * number), tokens.get(2 * number + 1))
        chosen, rejected = (None if each is None else each.ended() for each in both)
        if chosen and rejected and max(len(chosen.ids), len(rejected.ids)) > max_tokens:
            chosen, rejected = _shortened(tokenizer, named.record, max_tokens)
            shortened += chosen is not None
        if chosen and rejected:
            pairs.append(_pair(named, chosen, rejected))
    if not pairs:
        raise DataError(
            f"no pair of {len(data):,} fits into {max_tokens:,} tokens; raise `max_tokens` or take a model with a longer context"
        )
    notes = [f"{shortened:,} of {len(data):,} prompts lost their oldest turns to fit into {max_tokens:,} tokens"] if shortened else []
    left_out = len(data) - len(pairs)
    return pairs, notes + (
        [
            f"{left_out:,} of {len(data):,} pairs are left out: they do not fit into {max_tokens:,} tokens, or an answer of theirs is not to be learned"
        ]
        if left_out
        else []
    )


def _shortened(tokenizer: Any, record: Preference, max_tokens: int) -> tuple[Tokens, Tokens] | tuple[None, None]:
    """Both conversations behind as many of the prompt's turns as fit; None if even the last exchange is too long."""
    prompt = without_oldest(record.prompt)
    while prompt is not None:
        chosen, rejected = (render(tokenizer, prompt + answer, learn="last").ended() for answer in (record.chosen, record.rejected))
        if max(len(chosen.ids), len(rejected.ids)) <= max_tokens:
            return chosen, rejected
        prompt = without_oldest(prompt)
    return None, None


def _pair(named: Named, chosen: Tokens, rejected: Tokens) -> Pair:
    prompt_tokens = min(chosen.learn.index(True), rejected.learn.index(True))
    record = named.record
    return Pair(chosen.ids, rejected.ids, prompt_tokens, record.margin, named.source, record.extra, record.weight)


def answers(pairs: Iterable[Pair]) -> tuple[list[list[int]], list[list[int]]]:
    """The chosen and the rejected answers' ids, without their prompts."""
    pairs = list(pairs)
    return [pair.chosen[pair.prompt_tokens :] for pair in pairs], [pair.rejected[pair.prompt_tokens :] for pair in pairs]


def longer(pairs: Sequence[Pair]) -> Any:
    """Tokens that each chosen answer has more than the rejected one: (N) int64."""
    return np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=np.int64)


def judged(pairs: Sequence[Pair], scores: Any) -> Judged:
    """The pairs with their scores, (N, 2) float64."""

    def utility(pair: Pair) -> float:
        known = "utility_chosen" in pair.extra and "utility_rejected" in pair.extra
        return float(pair.extra["utility_chosen"]) - float(pair.extra["utility_rejected"]) if known else float("nan")

    groups = [pair.extra.get("group") for pair in pairs]
    return Judged(
        chosen=scores[:, 0],
        rejected=scores[:, 1],
        chosen_tokens=np.array([len(pair.chosen) - pair.prompt_tokens for pair in pairs]),
        rejected_tokens=np.array([len(pair.rejected) - pair.prompt_tokens for pair in pairs]),
        sources=[pair.source for pair in pairs],
        groups=[None if group is None else str(group) for group in groups],
        margin=np.array([float("nan") if pair.margin is None else pair.margin for pair in pairs]),
        utility=np.array([utility(pair) for pair in pairs]),
    )
