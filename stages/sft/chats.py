"""The chats of an SFT run: what is learned as ids on disk, what is held out as words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.chat import fit_notes, render_prompt
from data.errors import DataError
from data.formats import Chat
from data.prepared import chat_tokens, picked, records_at
from data.records import sides
from data.tokenfile import DROPPED, SHORTENED, TokenFile
from stages.contract import Job
from stages.core.reading import files_of, note_tokens, read, token_folder
from stages.core.rows import Mapped
from stages.core.samples import Asked, room_for_answers
from stages.sft.config import SFT

LOOKED_AT = 20_000
"""Documents whose masks are counted."""


@dataclass(frozen=True)
class Chats:
    """Chats to learn from, chats to measure on, and what was noticed."""

    train: Mapped
    held_out: list[Chat]
    notes: list[str]


def read_chats(job: Job, config: SFT, tokenizer: Any, context: int) -> Chats:
    """Training chats from `data`; held-out ones from `validation`, or else a share of `data` by content. Raises DataError."""
    files = files_of(job, "data", config.data)
    tokens, notes = chat_tokens(tokenizer, config.data, files, token_folder(job), learn=config.learn, max_tokens=context)
    note_tokens(job, tokens)
    chosen = picked(tokens, config.data, config.temperature)
    if config.validation:
        held, more = read(job, "validation", config.validation, Chat)
        notes = [*notes, *(f"held out: {note}" for note in more)]
    else:
        out = np.array(sides(tokens.documents["place"][chosen].tolist(), config.held_out))
        held = records_at(config.data, files, Chat, chosen[out].tolist())
        notes = [*notes, f"{len(held):,} of {len(chosen):,} records are held out, chosen by their content"]
        chosen = chosen[~out]
    fit = tokens.documents["fit"][chosen]
    notes += fit_notes(len(chosen), int((fit == SHORTENED).sum()), int((fit == DROPPED).sum()))
    return Chats(_mapped(tokens, chosen[fit != DROPPED], len(chosen), context), held, notes)


def _mapped(tokens: TokenFile, chosen: NDArray[np.int64], asked: int, context: int) -> Mapped:
    if not len(chosen):
        raise DataError(f"none of the {asked:,} chats has an answer that fits into {context} tokens; raise max_tokens or shorten them")
    return Mapped(tokens.ids, tokens.starts[chosen], tokens.lengths[chosen], tokens.learn)


def asked(chats: Sequence[Chat], tokenizer: Any, context: int, count: int) -> list[Asked]:
    """The first held-out chats that fit, each up to its last answer."""
    found: list[Asked] = []
    for chat in chats:
        if len(found) == count:
            break
        place = max(place for place, message in enumerate(chat.messages) if message["role"] == "assistant")
        if before := chat.messages[:place]:
            ids = render_prompt(tokenizer, before, tools=chat.tools)
            if len(ids) <= context - room_for_answers(context):
                found.append(Asked(before, ids, str(chat.messages[place].get("content") or "")))
    return found


def mask_share(documents: Mapped) -> float:
    """Share of the tokens that are learned: of all documents, or of `LOOKED_AT` of them, evenly spread."""
    chosen = range(0, len(documents.lengths), -(-len(documents.lengths) // LOOKED_AT))
    masks = [documents[index].learn for index in chosen]
    learned = sum(int(mask.sum()) for mask in masks if mask is not None)
    return learned / int(documents.lengths[chosen.start :: chosen.step].sum())
