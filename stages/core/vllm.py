"""Answers from vLLM, in the same process as the trainer and on its device: many times faster than transformers where there is a GPU.

Other kernels give other arithmetic: the log-probabilities that vLLM reports differ from the trainer's by more than rounding of fp32, so that the
trainer computes its own, logs the difference, and weighs tokens by the ratio (`importance_cap`). Before every rollout the policy's weights are handed over, one at
a time; a LoRA adapter is added to a copy of each weight and never into the weights that train (merging and unmerging in bf16 makes the base drift).

Written against vLLM 0.33's `LLM` and tested with a stand-in for it: no GPU was at hand.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import DataError
from stages.core.generation import Completion

Weights = Callable[[], Iterable[tuple[str, Tensor]]]
"""Names as in the model's folder, and tensors."""


class VLLM:
    """An engine as `stages.core.generation.Engine` describes it. Answers depend on model, prompt and seed; across batchings only up to vLLM's kernels."""

    def __init__(
        self, folder: Path, weights: Weights, *, context: int, memory: float, dtype: torch.dtype = torch.bfloat16, processes: int = 1
    ) -> None:
        """`folder` holds the model that the policy starts as; `memory` is the share of the device's memory that vLLM may take. It answers in 16 bits: in fp16
        where that is the policy's own arithmetic (`dtype`), because the device has no bf16, else in bf16.

        Raises DataError where vLLM or a CUDA device is missing.
        """
        check_vllm()
        from vllm import LLM

        self.weights = weights
        self.llm = LLM(
            model=str(folder),
            max_model_len=context,
            gpu_memory_utilization=memory,
            dtype="float16" if dtype == torch.float16 else "bfloat16",
            seed=0,
            trust_remote_code=False,
            # Log-probabilities after the temperature, as the trainer computes them.
            logprobs_mode="processed_logprobs",
            # Otherwise it samples with the top-p and top-k that the folder's generation_config.json may hold.
            generation_config="vllm",
            **({"distributed_executor_backend": "external_launcher"} if processes > 1 else {}),
        )

    def sync(self) -> None:
        """Take over the policy's weights as they are now, and forget what was computed with the earlier ones."""
        model = self.llm.llm_engine.model_executor.driver_worker.model_runner.model
        for name, tensor in self.weights():
            model.load_weights([(name, tensor)])
        self.llm.reset_prefix_cache()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int,
        end_ids: Collection[int],
        greedy: bool = False,
    ) -> list[Completion]:
        """One completion for each prompt, in order. Raises RuntimeError if vLLM gives back fewer, or one without its log-probabilities."""
        from vllm import SamplingParams

        shared = {"max_tokens": max_new_tokens, "stop_token_ids": sorted(end_ids), "logprobs": 0, "detokenize": False}
        asked = [SamplingParams(seed=seed, temperature=0.0 if greedy else temperature, **shared) for seed in seeds]
        outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], asked, use_tqdm=False)
        if len(outputs) != len(prompts):
            raise RuntimeError(f"vLLM gave {len(outputs)} answers to {len(prompts)} prompts")
        return [_completion(output.outputs[0], end_ids) for output in outputs]


def _completion(answer: Any, end_ids: Collection[int]) -> Completion:
    ids = list(answer.token_ids)
    if not ids or answer.logprobs is None or len(answer.logprobs) != len(ids):
        raise RuntimeError("vLLM gave an answer without a log-probability for each of its tokens")
    logprobs = [float(choices[token].logprob) for token, choices in zip(ids, answer.logprobs, strict=True)]
    return Completion(ids, ids[-1] in end_ids, logprobs)


def check_vllm() -> None:
    """Raises DataError where `engine: vllm` cannot work."""
    if find_spec("vllm") is None:
        raise DataError("engine: vllm needs the package vllm, the extra of that name: pip install 'recipe-pipeline[vllm]'")
    if not torch.cuda.is_available():
        raise DataError("engine: vllm needs a CUDA device; without one, engine: transformers does the same")


@torch.no_grad()
def plain_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's weights by the names of its folder; those under active LoRA adapters with these added, in a copy."""
    if not hasattr(model, "peft_config"):
        yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {f"{name}.base_layer.weight": layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if name in adapted:
            layer = adapted[name]
            deltas = [layer.get_delta_weight(each) for each in layer.active_adapters if each in layer.lora_A]
            yield plain, sum(deltas, parameter.detach().float()).to(parameter.dtype)
        elif ".lora_" not in name:
            yield plain, parameter.detach()
