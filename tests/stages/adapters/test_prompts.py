"""Virtual tokens through our own path equal peft's forward pass, padded and packed, drawn and scored."""

import pytest
import torch

from stages.adapters.building import add_adapter
from stages.adapters.config import Prefix, Prompt, PTuning
from stages.adapters.prompts import hidden_states, packed_hidden_states
from stages.adapters.switching import adapter_off
from stages.core.generation import Transformers
from stages.core.logprobs import completion_logprobs
from tests.stages.adapters.made import disturbed

KINDS = [Prefix(tokens=3), Prefix(tokens=3, projection=True), PTuning(tokens=3), Prompt(tokens=3)]
ROWS = [[11, 12, 13], [21, 22, 23, 24, 25, 26], [31]]


@pytest.fixture(params=KINDS, ids=lambda config: config.label + "*" * getattr(config, "projection", False))
def model(request, llama):
    # An untied head, so that likelihoods differ enough to tell tokens apart.
    return disturbed(add_adapter(llama(tied_embeddings=False), request.param, "CAUSAL_LM"), size=0.5)


def logits(model, ids):
    """peft's own forward pass; of prompt tuning the virtual tokens' logits come first."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]


def ours(model, hidden):
    return model.get_output_embeddings()(hidden)


@torch.no_grad()
def test_hidden_states_of_padded_rows_are_pefts_of_each_row_alone(model):
    padded = torch.tensor([row + [0] * (6 - len(row)) for row in ROWS])
    found = ours(model, hidden_states(model, model.get_decoder(), padded))
    for row, states in zip(ROWS, found, strict=True):
        torch.testing.assert_close(states[: len(row)], logits(model, row), rtol=0, atol=2e-5)


@torch.no_grad()
def test_each_document_of_a_packed_row_has_virtual_tokens_of_its_own(model):
    packed = ours(
        model,
        packed_hidden_states(
            model, model.get_decoder(), torch.tensor([token for row in ROWS for token in row]), [len(row) for row in ROWS]
        ),
    )
    for row, states in zip(ROWS, torch.split(packed, [len(row) for row in ROWS]), strict=True):
        torch.testing.assert_close(states, logits(model, row), rtol=0, atol=2e-5)


@torch.no_grad()
def test_gradients_are_those_of_pefts_forward_pass(model):
    with torch.enable_grad():
        trained = [p for p in model.parameters() if p.requires_grad]
        peft = torch.autograd.grad(model(input_ids=torch.tensor([ROWS[1]])).logits[0, -6:].square().sum(), trained)
        mine = torch.autograd.grad(ours(model, hidden_states(model, model.get_decoder(), torch.tensor([ROWS[1]]))).square().sum(), trained)
    for one, other in zip(mine, peft, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_sampler_reads_on_behind_the_virtual_tokens_whatever_is_padded(model):
    """Greedy answers of a ragged, left-padded batch: peft's own next tokens, one forward pass without a cache for each."""
    answers = Transformers(model).generate(ROWS, seeds=[0, 1, 2], temperature=1.0, max_new_tokens=5, end_ids=[], greedy=True)
    for row, answer in zip(ROWS, answers, strict=True):
        expected = list(row)
        for _ in range(5):
            expected.append(int(logits(model, expected)[-1].argmax()))
        assert answer.ids == expected[len(row) :]
    scored, _ = completion_logprobs(model, ROWS, [answer.ids for answer in answers])
    drawn = torch.tensor([answer.logprobs for answer in answers])
    torch.testing.assert_close(scored, drawn, rtol=0, atol=2e-5)


def test_switched_off_everything_is_the_bare_model(model, llama):
    bare = llama(tied_embeddings=False).eval()
    settings = {"seeds": [0, 1, 2], "temperature": 1.0, "max_new_tokens": 4, "end_ids": [], "greedy": True}
    with adapter_off(model):
        assert [a.ids for a in Transformers(model).generate(ROWS, **settings)] == [
            a.ids for a in Transformers(bare).generate(ROWS, **settings)
        ]
        found, _ = completion_logprobs(model, ROWS, [[1, 2], [3], [4]])
    assert torch.equal(found, completion_logprobs(bare, ROWS, [[1, 2], [3], [4]])[0])
    assert not torch.equal(found, completion_logprobs(model, ROWS, [[1, 2], [3], [4]])[0])
