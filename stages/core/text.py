"""Text as documents of tokens, the same for pretraining and for measuring perplexity."""

from collections.abc import Sequence
from typing import Any

from data.tokens import begun, encode_texts, pieces
from stages.core.rows import Document


def text_documents(tokenizer: Any, texts: Sequence[str], context: int) -> list[Document]:
    """Each text as start token, words, EOS; longer ones are cut into pieces of `context` tokens that share one token with the next.

    The start token is BOS where the tokenizer writes one, else EOS. It is what the first word is predicted from, so that a document's summed
    loss is -log p of the whole text and its end, and can be compared with the generator's own entropy.
    """
    encoded = [begun(tokenizer, ids) for ids in encode_texts(tokenizer, texts)]
    return [Document(piece) for piece in pieces(encoded, context)]
