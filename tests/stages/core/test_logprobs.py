"""Sampler and trainer agree; what a row is batched or padded with changes nothing; the end token is scored, whatever the pad token."""

import pytest
import torch

from stages.contract import StageError
from stages.core.generation import Transformers
from stages.core.logprobs import Sweep, TokenLogprobs, TokenValues, batch_of, check_head, completion_logprobs, cut

VOCABULARY, END = 64, 1


def model_of(kind: str = "llama", seed: int = 0, dropout: float = 0.0):
    """A small model with pad == eos in its config: masks must come from lengths."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=END, eos_token_id=END)
        model = GPT2LMHeadModel(config)
        model.transformer.wpe.weight.data.mul_(20)  # absolute positions that matter
        return model.eval()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attention_dropout=dropout,
        pad_token_id=END,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config).eval()
    if kind == "lora":
        from stages.adapters.building import add_adapter
        from stages.adapters.config import Lora

        model = add_adapter(model, Lora(rank=4), "CAUSAL_LM").eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def prompts_of(count: int = 24, shortest: int = 1, longest: int = 11) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def full_logprobs(model, prompt, completion, temperature):
    """The obvious way: one row, all logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("limit", [1, 9])
def test_sampler_and_trainer_agree(kind, temperature, limit):
    """One-token and full-length completions among them, in left-padded batches with rows that leave."""
    model, prompts = model_of(kind), prompts_of()
    ends = set(range(1, 14))
    answers = Transformers(model, micro_batch=10).generate(
        prompts, seeds=range(len(prompts)), temperature=temperature, max_new_tokens=limit, end_ids=ends
    )
    lengths = {len(answer.ids) for answer in answers}
    assert {1, limit} <= lengths
    completions = [answer.ids for answer in answers]
    found, mask = completion_logprobs(model, prompts, completions, temperature, micro_batch=7)
    for row, answer in enumerate(answers):
        sampled = torch.tensor(answer.logprobs)
        torch.testing.assert_close(found[row, mask[row]], sampled, atol=1e-4, rtol=0)
        assert ((found[row, mask[row]] - sampled).exp() - 1).abs().max() <= 1e-4
        torch.testing.assert_close(sampled, full_logprobs(model, prompts[row], answer.ids, temperature), atol=1e-4, rtol=0)


def scaled(kind: str):
    """Models that do something with their logits: Granite divides them, Gemma 2 caps them."""
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    if kind == "granite":
        from transformers import GraniteConfig, GraniteForCausalLM

        return GraniteForCausalLM(GraniteConfig(**shape, num_key_value_heads=2, initializer_range=0.3, logits_scaling=8.0)).eval()
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(
        Gemma2Config(**shape, num_key_value_heads=2, head_dim=8, initializer_range=0.3, final_logit_softcapping=1.0)
    ).eval()


def test_a_model_whose_logits_are_not_what_its_output_layer_gives_is_refused_unless_that_is_known():
    rounded = model_of().bfloat16()
    rounded.get_output_embeddings().weight.data.mul_(20)  # logits so large that one step of bf16 is 0.03 and more
    dropping = model_of(dropout=0.5).train()
    for model in (model_of(), model_of("gpt2"), model_of("lora"), scaled("gemma2"), rounded, dropping):
        check_head(model)
    assert dropping.training, "a model is left in its mode"
    with pytest.raises(StageError, match="GraniteForCausalLM computes its logits in a way of its own"):
        check_head(scaled("granite"))
    capped = scaled("gemma2")
    logits = capped(input_ids=torch.tensor([[3, 4]])).logits
    assert logits.abs().max() <= 1.0, "the cap is felt"


def test_the_end_token_is_real_although_it_is_the_pad_token():
    model = model_of()
    scorer = TokenLogprobs(model)
    batch = batch_of([[3, 4]], [[5, END]])
    logp, _ = scorer(batch)
    assert logp.shape == (2,)
    logp[1].backward()
    head = model.get_output_embeddings().weight.grad
    assert head is not None
    assert head[END].abs().max() > 0


def test_chunks_of_the_output_layer_and_micro_batches_give_the_same_numbers_and_gradients(monkeypatch):
    prompts = prompts_of(6)
    completions = prompts_of(6, longest=5)
    results = []
    for at_once in (1 << 25, 3 * VOCABULARY):
        monkeypatch.setattr("stages.core.logprobs.LOGITS_AT_ONCE", at_once)
        model = model_of()
        logp, entropy = TokenLogprobs(model, 0.8)(batch_of(prompts, completions), with_entropy=True)
        (logp.sum() + entropy.sum()).backward()
        results.append([logp, entropy, *(p.grad for p in model.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, atol=1e-5, rtol=1e-4)


def test_entropy_is_that_of_the_distribution_at_the_sampling_temperature():
    model = model_of()
    prompt, completion = [3, 9, 4], [7]
    _, entropy = TokenLogprobs(model, 0.7)(batch_of([prompt], [completion]), with_entropy=True)
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.7
    torch.testing.assert_close(entropy[0], torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5, rtol=0)


def test_values_belong_to_the_state_before_each_token():
    model = model_of()
    critic = TokenValues(model.get_decoder(), 32)
    torch.nn.init.normal_(critic.head.weight)
    prompt, completion = [3, 9, 4], [7, 8]
    values = critic(batch_of([prompt, prompt], [completion, [7, 9, 9]]))
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=torch.tensor([prompt + completion])).last_hidden_state
        expected = critic.head(hidden[0, [2, 3]])[:, 0]
    torch.testing.assert_close(values[:2], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(values[2:4], expected, atol=1e-5, rtol=0)  # same states, whatever follows


def test_a_sweep_gives_rows_in_order_and_zeros_where_masked():
    prompts, completions = prompts_of(9), prompts_of(9, longest=5)
    model = model_of()
    sweep = Sweep(prompts, completions, micro_batch=2)
    found = sweep.over(TokenLogprobs(model))[0]
    assert (found[~sweep.mask_BT] == 0).all()
    for row in range(9):
        expected = full_logprobs(model, prompts[row], completions[row], 1.0)
        torch.testing.assert_close(found[row, : len(completions[row])], expected, atol=1e-5, rtol=1e-5)


def test_micro_batches_hold_every_row_once_and_keep_their_bounds():
    lengths = [5, 3, 8, 8, 1, 2, 30]
    for batches in (cut(lengths, 2, 1), cut(lengths, None, 16)):
        assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(batch) <= 2 for batch in cut(lengths, 2, 1))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 16 or len(batch) == 1 for batch in cut(lengths, None, 16))
