"""The vLLM engine against a stand-in that mirrors what is used of vLLM's `LLM`: a real model of its own, whose arithmetic is rounded on purpose."""

import copy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from data.errors import DataError
from stages.core import vllm as engine
from stages.core.generation import Transformers
from tests.stages.core.test_logprobs import END, model_of, prompts_of


class StandIn:
    """`vllm.LLM`: weights of its own, rounded to bf16; draws by `Transformers`, one prompt at a time, with each request's seed."""

    def __init__(self, model: str, **settings) -> None:
        self.settings, self.cached, self.fewer = settings, 1, 0
        self.own = copy.deepcopy(model_of(seed=9)).requires_grad_(False)
        inner = SimpleNamespace(load_weights=self.load_weights)
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=inner))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def load_weights(self, pairs) -> None:
        own = dict(self.own.named_parameters())
        for name, tensor in pairs:
            own[name].copy_(tensor.bfloat16().float())

    def reset_prefix_cache(self) -> None:
        self.cached = 0

    def generate(self, prompts, asked, use_tqdm):
        assert not use_tqdm
        outputs = []
        for prompt, each in list(zip(prompts, asked, strict=True))[self.fewer :]:
            assert not each.detokenize
            (answer,) = Transformers(self.own).generate(
                [prompt["prompt_token_ids"]],
                seeds=[each.seed],
                temperature=each.temperature or 1.0,
                max_new_tokens=each.max_tokens,
                end_ids=each.stop_token_ids,
                greedy=each.temperature == 0.0,
            )
            logprobs = [{token: SimpleNamespace(logprob=logp)} for token, logp in zip(answer.ids, answer.logprobs, strict=True)]
            outputs.append(
                SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(answer.ids), logprobs=logprobs if each.logprobs == 0 else None)])
            )
        return outputs


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, lambda **settings: SimpleNamespace(**settings)
    module.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def made(model, tmp_path, **options):
    return engine.VLLM(tmp_path, lambda: engine.plain_weights(model), context=64, memory=0.3, **options)


OPTIONS = {"temperature": 0.8, "max_new_tokens": 7, "end_ids": {END, 5, 6}}


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_after_a_sync_it_answers_as_the_policy_does_up_to_its_rounding(stand_in, tmp_path, kind):
    model, prompts = model_of(kind), prompts_of(8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    one = made(model, tmp_path)
    one.sync()
    found = one.generate(prompts, seeds=range(8), **OPTIONS)
    rounded = copy.deepcopy(model.merge_and_unload() if kind == "lora" else model)
    if kind == "llama":
        assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    for parameter in rounded.parameters():
        parameter.data.copy_(parameter.data.bfloat16().float())
    expected = Transformers(rounded).generate(prompts, seeds=range(8), **OPTIONS)
    for answer, wanted in zip(found, expected, strict=True):
        assert (answer.ids, answer.finished) == (wanted.ids, wanted.finished)
        assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    assert {answer.finished for answer in found} == {True, False}
    assert one.llm.cached == 0
    assert one.llm.settings["logprobs_mode"] == "processed_logprobs"
    assert one.llm.settings["generation_config"] == "vllm"
    assert "distributed_executor_backend" not in one.llm.settings


@pytest.mark.parametrize(("arithmetic", "told"), [(torch.float32, "bfloat16"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_it_answers_in_16_bits_that_the_device_has(stand_in, tmp_path, arithmetic, told):
    assert made(model_of(), tmp_path, dtype=arithmetic).llm.settings["dtype"] == told


def test_a_hundred_syncs_of_an_adapter_leave_the_base_bit_equal(stand_in, tmp_path):
    model = model_of("lora").to(torch.bfloat16)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    one = made(model, tmp_path)
    for _ in range(100):
        one.sync()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_without_a_sync_the_answers_are_those_of_stale_weights_and_the_log_probabilities_show_it(stand_in, tmp_path):
    from stages.core.logprobs import completion_logprobs

    model, prompts = model_of(), prompts_of(8)
    one, differences = made(model, tmp_path), []
    for _ in range(2):
        answers = one.generate(prompts, seeds=range(8), **OPTIONS)
        logp, mask = completion_logprobs(model, prompts, [answer.ids for answer in answers], 0.8)
        sampled = torch.tensor([logp for answer in answers for logp in answer.logprobs])
        differences.append(float((logp[mask] - sampled).abs().max()))
        one.sync()
    assert differences[0] > 0.5
    assert 1e-6 < differences[1] < 0.2


def test_greedy_is_temperature_zero_and_missing_answers_are_told(stand_in, tmp_path):
    model, prompts = model_of(), prompts_of(4)
    one = made(model, tmp_path, processes=2)
    assert one.llm.settings["distributed_executor_backend"] == "external_launcher"
    one.sync()
    assert one.generate(prompts, seeds=range(4), greedy=True, **OPTIONS) == one.generate(prompts, seeds=range(4, 8), greedy=True, **OPTIONS)
    one.llm.fewer = 1
    with pytest.raises(RuntimeError, match="3 answers to 4 prompts"):
        one.generate(prompts, seeds=range(4), **OPTIONS)


def test_without_the_package_or_a_gpu_the_way_out_is_told():
    with pytest.raises(DataError, match="the extra of that name"):
        engine.check_vllm()


def test_a_gpu_is_needed(stand_in, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="needs a CUDA device"):
        engine.check_vllm()
