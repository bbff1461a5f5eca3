"""What simple models reach on the same data: the honest controls that a trained model has to beat. Pure: numpy in, numbers out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer]


def bigram_perplexity(train_ids: Sequence[Ids], held_out_ids: Sequence[Ids], vocab: int, *, discount: float = 0.75) -> float:
    """Perplexity of a bigram model, interpolated with unigrams by absolute discounting (Ney, Essen & Kneser 1994).

    p(b|a) = max(c(ab) - d, 0) / c(a) + d * n(a) / c(a) * p(b), where n(a) counts the different followers of a and p(b) is the unigram
    with one added to each count; p(b|a) = p(b) where a was never seen. Documents are arrays of token ids; nothing is predicted across
    their borders, and the first token of a document is given, as it is to a causal model. Raises ValueError without held-out transitions.
    """
    unigram_V = np.bincount(np.concatenate([*train_ids, np.arange(vocab)]), minlength=vocab).astype(np.float64)
    unigram_V /= unigram_V.sum()
    codes, counts = np.unique(_transitions(train_ids, vocab), return_counts=True)
    contexts_V = np.bincount(codes // vocab, counts, minlength=vocab)
    followers_V = np.bincount(codes // vocab, minlength=vocab)
    wanted = _transitions(held_out_ids, vocab)
    if not len(wanted):
        raise ValueError("no held-out document has two tokens")
    places = np.searchsorted(codes, wanted).clip(max=max(len(codes) - 1, 0))
    seen = np.where(codes[places] == wanted, counts[places], 0) if len(codes) else np.zeros(len(wanted))
    context, token = wanted // vocab, wanted % vocab
    total = np.maximum(contexts_V[context], 1)
    backed_off = np.where(contexts_V[context] > 0, discount * followers_V[context] / total, 1.0)
    probability = np.maximum(seen - discount, 0) / total + backed_off * unigram_V[token]
    return float(np.exp(-np.log(probability).mean()))


def _transitions(documents: Sequence[Ids], vocab: int) -> NDArray[np.int64]:
    """first * vocab + second of every two neighbours within a document."""
    codes = [document[:-1].astype(np.int64) * vocab + document[1:] for document in documents if len(document) > 1]
    return np.concatenate(codes) if codes else np.zeros(0, dtype=np.int64)


class BagOfWords:
    """Logistic regression on which answer has which words: a preference model that knows no order and no prompt.

    A pair is the difference of the two answers' token counts (square roots of counts, hashed to `WIDTH` columns), without a
    constant, so that swapping the answers negates the verdict. Fitted by Nesterov's accelerated gradient with an L2 penalty.
    """

    WIDTH = 4096

    def __init__(
        self, chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]], *, penalty: float = 1e-2, rounds: int = 200
    ) -> None:
        """Fit to pairs of answers as token ids, the preferred ones first. Raises ValueError without pairs."""
        if not chosen:
            raise ValueError("a bag of words needs pairs to learn from")
        words = np.concatenate([np.asarray(answer, dtype=np.int64) for answer in (*chosen, *rejected)]) % self.WIDTH
        # Words of no training pair share a last column, whose weight stays zero.
        self.columns = np.full(self.WIDTH, len(np.unique(words)))
        self.columns[np.unique(words)] = np.arange(len(np.unique(words)))
        features_NW = self._differences(chosen, rejected)
        # The logistic loss's curvature is at most a quarter of the features' mean square norm's: a safe step without a line search.
        step = 1.0 / (0.25 * float((features_NW**2).sum(axis=1).mean()) + penalty)
        self.weights_W = ahead_W = np.zeros(features_NW.shape[1], dtype=np.float32)
        for number in range(rounds):
            doubt_N = 1.0 / (1.0 + np.exp(features_NW @ ahead_W))
            gradient_W = penalty * ahead_W - doubt_N @ features_NW / len(features_NW)
            moved_W = ahead_W - step * gradient_W
            ahead_W = moved_W + number / (number + 3) * (moved_W - self.weights_W)
            self.weights_W = moved_W

    def accuracy(self, chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]) -> float:
        """Share of pairs in which the chosen answer scores higher; a tie counts one half."""
        verdicts_N = self._differences(chosen, rejected) @ self.weights_W
        return float((np.sign(verdicts_N) + 1).mean() / 2)

    def _differences(self, chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return np.stack([self._bag(first) - self._bag(second) for first, second in zip(chosen, rejected, strict=True)])

    def _bag(self, ids: Sequence[int]) -> NDArray[np.float32]:
        columns = self.columns[np.asarray(ids, dtype=np.int64) % self.WIDTH]
        return np.sqrt(np.bincount(columns, minlength=int(self.columns.max()) + 1), dtype=np.float32)
