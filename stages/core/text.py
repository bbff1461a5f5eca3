"""Text as documents of tokens, the same for pretraining and for measuring perplexity: in memory, or on disk and made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import Source
from data.packing import cut
from data.prepared import picked, text_tokens
from data.records import sides
from data.tokenfile import TokenFile
from data.tokens import encode_texts, pieces
from stages.contract import Job
from stages.core.reading import files_of, note_tokens, token_folder
from stages.core.rows import Document, Mapped


def text_documents(tokenizer: Any, texts: Sequence[str], context: int) -> list[Document]:
    """Each text as start token, words, EOS; longer ones are cut into pieces of `context` tokens that share one token with the next.

    The start token is BOS where the tokenizer writes one, else EOS. It is what the first word is predicted from, so that a document's summed
    loss is -log p of the whole text and its end, and can be compared with the generator's own entropy.
    """
    return [Document(piece) for piece in pieces(encode_texts(tokenizer, texts), context)]


@dataclass(frozen=True)
class Corpus:
    """Texts of a token file that are trained on, or held out."""

    tokens: TokenFile
    picked: NDArray[np.int64]
    """Numbers of its documents, in source order; one that a weight repeats stands there as often."""

    def documents(self, context: int) -> Mapped:
        """As `text_documents`, on disk."""
        starts, lengths = self.tokens.starts[self.picked], self.tokens.lengths[self.picked]
        long = [cut(int(length), context) for length in lengths[lengths > context]]
        counts = np.ones(len(lengths), np.int64)
        counts[lengths > context] = [len(parts) for parts in long]
        begins, sizes = np.zeros(int(counts.sum()), np.int64), np.repeat(lengths, counts)
        places = np.repeat(lengths > context, counts)
        begins[places] = [begin for parts in long for begin, _ in parts]
        sizes[places] = [end - begin for parts in long for begin, end in parts]
        return Mapped(self.tokens.ids, np.repeat(starts, counts) + begins, sizes)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the texts."""
        return int(self.tokens.documents["size"][self.picked].astype(np.int64).sum())

    @property
    def nats(self) -> float | None:
        """Summed entropy of the texts under the generator that wrote them; None if it is not known of each."""
        nats = self.tokens.documents["nats"][self.picked]
        return None if np.isnan(nats).any() else float(nats.sum())


@dataclass(frozen=True)
class Corpora:
    """Texts to learn from, texts to measure on, and what was noticed."""

    train: Corpus
    held_out: Corpus
    notes: list[str]


def corpora(
    job: Job, tokenizer: Any, data: Sequence[Source], validation: Sequence[Source], share: float, *, temperature: float = 1.0
) -> Corpora:
    """Training texts from `data`; held-out ones from `validation`, or else a `share` of `data` by content. Tokens stay on disk. Raises DataError."""
    cache = token_folder(job)
    tokens, notes = text_tokens(tokenizer, data, files_of(job, "data", data), cache, places=not validation)
    note_tokens(job, tokens)
    chosen = picked(tokens, data, temperature)
    if validation:
        held, more = text_tokens(tokenizer, validation, files_of(job, "validation", validation), cache, places=False)
        note_tokens(job, held)
        return Corpora(
            Corpus(tokens, chosen), Corpus(held, picked(held, validation, 1.0)), [*notes, *(f"held out: {note}" for note in more)]
        )
    out = np.array(sides(tokens.documents["place"][chosen].tolist(), share))
    note = f"{int(out.sum()):,} of {len(chosen):,} records are held out, chosen by their content"
    return Corpora(Corpus(tokens, chosen[~out]), Corpus(tokens, chosen[out]), [*notes, note])
