"""Laws of the pretraining mix."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.core.logprobs import TokenLogprobs
from stages.ppo.mix import Mix
from stages.ppo.ranks import Ranks

DOCUMENTS = [[1, 5, 9, 2], [1, 7, 2], [1, 3, 3, 8, 6, 2], [1, 4, 2], [1, 9, 9, 9, 2]]


@pytest.fixture
def policy() -> TokenLogprobs:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32
    )
    return TokenLogprobs(LlamaForCausalLM(shape).eval())


class ShareOf(Ranks):
    """One of several processes, alone: sums are not taken, so that shares can be added by hand."""

    def sum(self, sums: torch.Tensor) -> torch.Tensor:
        return sums


def gradients(policy: TokenLogprobs) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    policy.zero_grad(set_to_none=True)
    return found


def test_one_pass_over_all_documents_has_the_gradient_of_their_mean_loss_times_the_coefficient(policy: TokenLogprobs):
    Mix(DOCUMENTS, len(DOCUMENTS), 0.5, policy, 0, Ranks()).backward(0)
    ours = gradients(policy)
    nats, tokens = torch.zeros(()), 0
    for document in DOCUMENTS:
        ids = torch.tensor([document])
        nats = nats + torch.nn.functional.cross_entropy(policy.model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        tokens += len(document) - 1
    (0.5 * nats / tokens).backward()
    torch.testing.assert_close(ours, gradients(policy), atol=1e-6, rtol=1e-5)


def test_shares_of_two_processes_add_up_to_the_whole_and_micro_batches_change_nothing(policy: TokenLogprobs):
    whole = Mix(DOCUMENTS, 4, 1.0, policy, 3, Ranks())
    total = whole.backward(7)
    expected = gradients(policy)
    shares = [Mix(DOCUMENTS, 4, 1.0, policy, 3, ShareOf(rank, 2)).backward(7, micro_batch=1) for rank in range(2)]
    torch.testing.assert_close(gradients(policy), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sum(shares), total)


def test_which_documents_a_step_sees_depends_on_seed_and_step_alone_and_epochs_leave_none_out(policy: TokenLogprobs):
    def seen(seed: int, step: int) -> float:
        loss = Mix(DOCUMENTS, 1, 1.0, policy, seed, Ranks()).backward(step)
        policy.zero_grad(set_to_none=True)
        return round(float(loss), 6)

    first = [seen(0, step) for step in range(5)]
    assert [seen(0, step) for step in reversed(range(5))] == first[::-1]
    assert len(set(first)) == len(DOCUMENTS)
    assert [seen(1, step) for step in range(5)] != first
