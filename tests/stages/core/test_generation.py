"""Answers depend on model, prompt and seed alone: not on batching, padding, other rows, or how many processes share them."""

import numpy as np
import pytest
import torch

from stages.core.generation import Transformers, draw, uniforms
from stages.core.logprobs import TOKENS_AT_ONCE
from tests.stages.core.test_logprobs import END, VOCABULARY, model_of, prompts_of


def answers(model, prompts, *, micro_batch=None, seeds=None, limit=9, ends=(END, 5, 6, 7), **options):
    engine = Transformers(model, micro_batch)
    options = {"temperature": 1.0} | options
    return engine.generate(prompts, seeds=seeds or range(len(prompts)), max_new_tokens=limit, end_ids=set(ends), **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora"])
def test_completions_do_not_depend_on_how_rows_are_batched(kind):
    model, prompts = model_of(kind), prompts_of()
    whole = [answer.ids for answer in answers(model, prompts)]
    for micro_batch in (1, 5):
        assert [answer.ids for answer in answers(model, prompts, micro_batch=micro_batch)] == whole
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = answers(model, [prompts[i] for i in order], seeds=order)
    assert [answer.ids for answer in shuffled] == [whole[i] for i in order]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora"])
def test_prompts_that_are_read_in_many_groups_give_the_same_answers(kind, monkeypatch):
    model, prompts = model_of(kind), prompts_of()
    whole = [answer.ids for answer in answers(model, prompts)]
    monkeypatch.setitem(TOKENS_AT_ONCE, "cpu", 16)
    assert [answer.ids for answer in answers(model, prompts)] == whole


def test_rows_can_be_shared_among_processes_without_changing_an_answer():
    model, prompts = model_of(), prompts_of()
    whole = answers(model, prompts)
    for rank in range(3):
        mine = list(range(rank, len(prompts), 3))
        assert [a.ids for a in answers(model, [prompts[i] for i in mine], seeds=mine)] == [whole[i].ids for i in mine]


def test_another_seed_draws_another_answer_and_the_same_seed_the_same():
    model, prompt = model_of(), [3, 4, 5]
    found = [answers(model, [prompt], seeds=[seed])[0].ids for seed in (1, 1, 2, 3)]
    assert found[0] == found[1]
    assert len({tuple(ids) for ids in found}) > 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_answers_are_those_of_generate_row_by_row(kind):
    model, prompts = model_of(kind), prompts_of(8)
    found = answers(model, prompts, greedy=True)
    for prompt, answer in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=9,
            do_sample=False,
            eos_token_id=[END, 5, 6, 7],
            pad_token_id=0,
            attention_mask=torch.ones(1, len(prompt)),
        )
        assert answer.ids == expected[0, len(prompt) :].tolist()


def test_an_answer_ends_at_its_first_end_token_or_at_the_limit():
    for answer in answers(model_of(), prompts_of()):
        ends = [token in (END, 5, 6, 7) for token in answer.ids]
        assert answer.finished == ends[-1]
        assert not any(ends[:-1])
        assert len(answer.ids) == len(answer.logprobs) == 9 or answer.finished


def test_tokens_are_drawn_with_their_probabilities_at_the_temperature():
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    numbers = torch.from_numpy((np.arange(20_000) + 0.5) / 20_000)
    for temperature in (0.7, 1.0):
        drawn = draw(logits.expand(20_000, -1), numbers, temperature)
        share = torch.bincount(drawn, minlength=6) / 20_000
        torch.testing.assert_close(share, torch.softmax(logits[0] / temperature, -1), atol=1e-4, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for number in (0.0, 0.5, 1.0 - 2**-53):
        assert draw(logits, torch.tensor([number], dtype=torch.float64), 1.0).item() in (1, 3)


def test_a_rows_random_numbers_are_its_own():
    assert np.array_equal(uniforms([4, 2**63, 7], 5)[1], uniforms([2**63], 9)[0, :5])
    many = uniforms(range(2000), 8)
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many[:-1].ravel(), many[1:].ravel())[0, 1]) < 0.03


def test_a_model_in_training_is_in_training_again_afterwards_with_its_weights_untouched():
    model = model_of(dropout=0.5).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    first, second = (answers(model, prompts_of(5)) for _ in range(2))
    assert first == second
    assert model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
    assert max(token for answer in first for token in answer.ids) < VOCABULARY
