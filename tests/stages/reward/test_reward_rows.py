import pytest
import torch

from stages.reward import attention
from stages.reward.rows import micro_batches, row_of


def alone(model, ids):
    """A conversation's score when it is computed by itself, by plain transformers."""
    model.set_attn_implementation("sdpa")
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, 0]


def together(model, pairs):
    model.set_attn_implementation(attention.NAME)
    row = row_of(pairs)
    hidden = model.model(input_ids=row.input_ids, position_ids=row.position_ids, forks=row.forks, use_cache=False).last_hidden_state
    return model.score(hidden[0, row.ends])[..., 0]


def test_scores_in_a_row_of_forks_equal_those_of_conversations_computed_alone(classifier, pairs):
    expected = torch.stack([torch.stack([alone(classifier, pair.chosen), alone(classifier, pair.rejected)]) for pair in pairs])
    torch.testing.assert_close(together(classifier, pairs), expected, atol=1e-5, rtol=1e-5)


def test_gradients_in_a_row_of_forks_equal_those_of_conversations_computed_alone(classifier, pairs):
    sum(alone(classifier, pair.chosen) - 2 * alone(classifier, pair.rejected) for pair in pairs).backward()
    expected = {name: parameter.grad.clone() for name, parameter in classifier.named_parameters()}
    classifier.zero_grad()
    scores = together(classifier, pairs)
    (scores[:, 0] - 2 * scores[:, 1]).sum().backward()
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=2e-4, rtol=1e-4)


def test_what_both_conversations_begin_with_is_computed_once_and_nothing_is_padded(pairs):
    row = row_of(pairs)
    assert row.input_ids.size(1) == sum(pair.tokens for pair in pairs)
    assert all(pair.shared >= pair.prompt_tokens for pair in pairs)
    assert pairs[-1].tokens == len(pairs[-1].chosen) + 1  # even of two equal conversations, each has its own last token


def test_a_row_reads_back_as_its_conversations(pairs):
    row = row_of(pairs)
    ids, positions, start = row.input_ids[0].tolist(), row.position_ids[0].tolist(), 0
    for pair, fork, (chosen_end, rejected_end) in zip(pairs, row.forks, row.ends.tolist(), strict=True):
        fork_place = start + fork.first
        assert ids[start:fork_place] == pair.chosen
        assert ids[start : start + fork.shared] + ids[fork_place : fork_place + fork.second] == pair.rejected
        assert (ids[chosen_end], ids[rejected_end]) == (pair.chosen[-1], pair.rejected[-1])
        assert (positions[chosen_end], positions[rejected_end]) == (len(pair.chosen) - 1, len(pair.rejected) - 1)
        start = fork_place + fork.second


def test_micro_batches_hold_every_pair_once_within_their_bounds(pairs):
    for most_pairs, most_tokens in [(1, 1000), (2, 1000), (100, 40), (100, 1)]:
        batches = list(micro_batches(pairs, most_pairs=most_pairs, most_tokens=most_tokens))
        assert sorted(index for batch in batches for index in batch) == list(range(len(pairs)))
        for batch in batches:
            assert len(batch) <= most_pairs
            assert len(batch) == 1 or sum(pairs[index].tokens for index in batch) <= most_tokens


def test_a_sliding_window_shorter_than_a_row_is_refused():
    short = torch.zeros(1, 2, 8, 4)
    with pytest.raises(ValueError, match="sliding window of 4"):
        attention.forks_attention(torch.nn.Identity(), short, short, short, None, sliding_window=4)
