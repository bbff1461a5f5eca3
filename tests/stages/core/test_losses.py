import pytest
import torch

from stages.core.losses import chunked_cross_entropy, pairwise_loss


def setup_function():
    torch.manual_seed(0)


@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_chunked_loss_and_gradients_are_those_of_the_whole(chunk):
    hidden = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(30, (20,))
    whole = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    expected = torch.autograd.grad(3 * whole, (hidden, head))
    loss = chunked_cross_entropy(hidden, head, targets, chunk)
    actual = torch.autograd.grad(3 * loss, (hidden, head))
    torch.testing.assert_close(loss, whole.float())
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # softmax is fp32 by design


def test_without_gradients_the_loss_is_the_same_number():
    hidden, head, targets = torch.randn(9, 4), torch.randn(6, 4, requires_grad=True), torch.randint(6, (9,))
    with torch.no_grad():
        quiet = chunked_cross_entropy(hidden, head, targets, 4)
    torch.testing.assert_close(quiet, chunked_cross_entropy(hidden, head, targets, 4).detach())


def test_a_frozen_head_gets_no_gradient_and_a_frozen_body_none_either():
    hidden, head, targets = torch.randn(5, 4), torch.randn(6, 4), torch.randint(6, (5,))
    chunked_cross_entropy(hidden.requires_grad_(), head, targets, 2).backward()
    assert hidden.grad is not None
    assert head.grad is None
    hidden.requires_grad_(False)
    chunked_cross_entropy(hidden, head.requires_grad_(), targets, 2).backward()
    assert head.grad is not None


def test_nothing_learned_costs_nothing_and_still_has_a_gradient():
    head = torch.randn(6, 4, requires_grad=True)
    loss = chunked_cross_entropy(torch.zeros(0, 4, requires_grad=True), head, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not head.grad.any()


def test_pairwise_loss_is_log_two_at_a_tie_and_falls_with_the_difference():
    tie, right, wrong = pairwise_loss(torch.tensor([0.0, 2.0, -2.0]), torch.zeros(3))
    assert tie == pytest.approx(0.693147, abs=1e-5)
    assert right < tie < wrong


def test_margin_shifts_and_centre_penalises_the_sum():
    chosen, rejected = torch.tensor([1.0]), torch.tensor([0.5])
    torch.testing.assert_close(pairwise_loss(chosen, rejected, torch.tensor([0.5])), torch.tensor([0.693147]))
    plain, centred = pairwise_loss(chosen, rejected), pairwise_loss(chosen, rejected, centre=0.1)
    torch.testing.assert_close(centred - plain, torch.tensor([0.1 * 1.5**2]))
