import itertools

import numpy as np
import pytest

from stages.core.baselines import BagOfWords, bigram_perplexity


def slow_bigram(train, held_out, vocab, discount=0.75):
    """The formula, read aloud."""
    pairs = [(a, b) for document in train for a, b in itertools.pairwise(document)]
    tokens = [token for document in train for token in document]
    logs = []
    for document in held_out:
        for a, b in itertools.pairwise(document):
            unigram = (tokens.count(b) + 1) / (len(tokens) + vocab)
            followers = [second for first, second in pairs if first == a]
            if not followers:
                logs.append(np.log(unigram))
                continue
            seen = max(followers.count(b) - discount, 0) / len(followers)
            logs.append(np.log(seen + discount * len(set(followers)) / len(followers) * unigram))
    return np.exp(-np.mean(logs))


def random_documents(generator, count, vocab):
    return [generator.integers(vocab, size=generator.integers(1, 12)) for _ in range(count)]


def test_the_bigram_models_perplexity_equals_its_formula():
    generator = np.random.default_rng(0)
    train, held_out = random_documents(generator, 12, 7), random_documents(generator, 6, 9)
    assert bigram_perplexity(train, held_out, 9) == pytest.approx(
        slow_bigram([d.tolist() for d in train], [d.tolist() for d in held_out], 9)
    )


def test_the_bigram_models_probabilities_sum_to_one():
    train = random_documents(np.random.default_rng(1), 10, 6)
    for first in range(6):
        total = sum(1 / bigram_perplexity(train, [np.array([first, second])], 6) for second in range(6))
        assert total == pytest.approx(1.0)


def test_the_bigram_model_reaches_the_entropy_of_a_markov_chain():
    generator = np.random.default_rng(2)
    table = generator.dirichlet(np.ones(5), size=5)

    def document():
        ids = [0]
        for _ in range(400):
            ids.append(int(generator.choice(5, p=table[ids[-1]])))
        return np.array(ids)

    train, held_out = [document() for _ in range(30)], [document() for _ in range(10)]
    floor = np.exp(-np.mean([np.log(table[a, b]) for d in held_out for a, b in itertools.pairwise(d)]))
    assert bigram_perplexity(train, held_out, 5) == pytest.approx(floor, rel=0.02)


def test_a_bigram_model_needs_something_to_predict():
    with pytest.raises(ValueError, match="two tokens"):
        bigram_perplexity([np.array([1, 2])], [np.array([1])], 4)


def planted_pairs(generator, count, good_word=3):
    bags = [generator.integers(50, size=12) for _ in range(2 * count)]
    chosen, rejected = [], []
    for first, second in zip(bags[::2], bags[1::2], strict=True):
        difference = 2.0 * ((first == good_word).sum() - (second == good_word).sum())
        won = generator.random() < 1 / (1 + np.exp(-difference))
        chosen.append(first if won else second)
        rejected.append(second if won else first)
    return chosen, rejected


def test_a_bag_of_words_finds_the_word_that_is_preferred_and_swapping_mirrors_its_accuracy():
    generator = np.random.default_rng(4)
    model = BagOfWords(*planted_pairs(generator, 800))
    chosen, rejected = planted_pairs(generator, 400)
    assert int(np.argmax(model.weights_W)) == model.columns[3]
    accuracy = model.accuracy(chosen, rejected)
    assert accuracy > 0.58
    assert model.accuracy(rejected, chosen) == pytest.approx(1 - accuracy)
    assert model.accuracy(chosen, chosen) == 0.5
    with pytest.raises(ValueError, match="pairs"):
        BagOfWords([], [])
