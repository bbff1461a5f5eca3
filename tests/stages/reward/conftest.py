import random

import pytest
import torch

from stages.reward.rows import Pair


@pytest.fixture
def classifier():
    """A small LLaMA with one score, grouped-query attention, and a head that is not zero."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.15,
        num_labels=1,
        pad_token_id=0,
        eos_token_id=1,
    )
    return LlamaForSequenceClassification(config).eval()


@pytest.fixture
def pairs():
    """Ragged pairs: with long and short prompts, answers that share a beginning, one answer that begins the other, and equal ones."""
    source = random.Random(0)

    def words(count):
        return [source.randrange(3, 64) for _ in range(count)]

    made = []
    for prompt, chosen, rejected in [(5, 4, 7), (20, 1, 9), (1, 12, 1), (9, 5, 5)]:
        beginning = words(prompt)
        made.append(Pair(beginning + words(chosen) + [2], beginning + words(rejected) + [2], prompt, None, "", {}))
    same = words(8)
    made.append(Pair([*same, 2], [*same, *words(4), 2], 3, None, "", {}))
    made.append(Pair([*same, 2], [*same, 2], 3, None, "", {}))
    return made
