"""The whole loop on real transformers models: a one-layer LLaMA finds the known optimum; an adapter learns by the same loop."""

import pytest
import torch

from stages.core.generation import Transformers
from stages.core.logprobs import TokenLogprobs, TokenValues
from stages.ppo.players import frozen_copy
from tests.stages.ppo.tabular import settings, training
from tests.stages.ppo.toy import ACTIONS, LONGEST, STATES, Toy, kl


class OnlyActions(torch.nn.Module):
    """An output layer that knows the four actions and no other token."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(ACTIONS, width, generator=torch.Generator().manual_seed(seed)) * width**-0.5)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight.T


def llama(seed: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=10,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.set_output_embeddings(OnlyActions(32, seed))
    return model


def table_of(policy: TokenLogprobs) -> torch.Tensor:
    """(X, A) log-probabilities of every action in every state, from the model."""
    with torch.no_grad():
        rows = [policy.model(input_ids=torch.tensor([[9, *state]])).logits[0, -1].double().log_softmax(-1) for state in STATES]
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_one_layer_llama_finds_the_optimum(seed, tmp_path):
    policy = TokenLogprobs(llama(seed))
    toy = Toy(seed)
    toy.__dict__["reference_XA"] = table_of(policy)
    config = settings(
        steps=150,
        batch=256,
        kl={"coefficient": 0.5},
        policy_optimizer={"learning_rate": 5e-3, "final": 0.0, "beta2": 0.99},
        critic_optimizer={"learning_rate": 0.01, "final": 0.0},
    )
    critic = TokenValues(llama(seed + 100).get_decoder(), 32)
    run = training(
        toy, config, tmp_path, seed=seed, policy=policy, reference=frozen_copy(policy), critic=critic, engine=Transformers(policy.model)
    )
    run.train(lambda: False)
    assert run.rollouts.sampling.max_new_tokens == LONGEST
    assert kl(toy.logp_S(table_of(policy)), toy.optimum_S(0.5)) <= 0.05
