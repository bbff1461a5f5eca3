"""What two processes hold while models are loaded and go into shards under ZeRO-3; started once, by torchrun, for all checks of `test_sharding.py`."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stages.contract import Hardware
from stages.core.config import Llama
from stages.core.logprobs import TokenLogprobs
from stages.core.models import load_base, new_llama
from stages.core.zero import engine_config, shard
from stages.ppo.players import frozen_copy
from stages.ppo.ranks import join
from tests.stages.tiny import saved, tokenizer_of

LARGE = {"hidden_size": 512, "layers": 10, "heads": 8, "context": 64}
SMALL = {"hidden_size": 32, "layers": 2, "heads": 4, "context": 64}
CONFIG = engine_config(Hardware(gpus=0, zero=3), clip=1.0, dtype=torch.float32, width=32)


def memory(name: str, file: str = "status") -> int:
    """Bytes, by the kernel's account of this process."""
    return int(re.findall(rf"^{name}:\s+(\d+) kB", Path(f"/proc/self/{file}").read_text(), re.MULTILINE)[0]) * 1024


def gathered(module: Any) -> dict[str, torch.Tensor]:
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(list(module.parameters())):
        return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def new(tied: bool, tokenizer: Any) -> dict[str, Any]:
    """A new model, whose weights only the first process has made."""
    shape, bare = Llama(**SMALL, tied_embeddings=tied), dist.get_rank() > 0
    model, whole = new_llama(shape, tokenizer, 7, bare=bare), new_llama(shape, tokenizer, 7)
    told = {"empty": all(p.is_meta for p in model.parameters()), "bare": bare}
    shard(model, CONFIG)
    told["tied"] = model.lm_head.weight is model.model.embed_tokens.weight
    told["whole"] = any(p.numel() for p in model.parameters())
    told["trains"] = all(p.requires_grad for p in model.parameters())
    told["buffers"] = same(dict(model.named_buffers()), dict(whole.named_buffers()))
    return told | {"equal": same(gathered(model), dict(whole.named_parameters()))}


def room(tokenizer: Any) -> dict[str, float]:
    """Most bytes that a process holds while a new model is made and cut, as a multiple of the model's."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model = new_llama(Llama(**LARGE), tokenizer, 7, bare=dist.get_rank() > 0)
    size = 4 * sum(p.numel() for p in model.parameters())
    shard(model, CONFIG)
    return {"most": (memory("VmHWM") - before) / size, "size": size}


def loaded(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """A policy and its reference, read from a file in fp32."""
    if dist.get_rank() == 0:
        saved(new_llama(Llama(**LARGE), tokenizer, 7), tokenizer, folder)
    dist.barrier()
    before = memory("Pss_Anon", "smaps_rollup")
    policy = TokenLogprobs(load_base(folder, Hardware(gpus=0, zero=3), "CAUSAL_LM"))
    reference = frozen_copy(policy, on_its_weights=True)
    values = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    total = float(sum(value.double().sum() for value in values.values()))
    own = memory("Pss_Anon", "smaps_rollup") - before
    size = sum(value.nbytes for value in values.values())
    values = {name: value.clone() for name, value in values.items()}
    shard(reference, CONFIG)
    with torch.no_grad():  # what one is made of must not be the other's
        for parameter in reference.parameters():
            parameter.ds_tensor.add_(1.0)
    shard(policy, CONFIG)
    one, two = gathered(policy), gathered(reference)
    moved = all(torch.equal(two[name], values[name] + 1.0) for name in values)
    frozen = not any(p.requires_grad for p in reference.parameters())
    return {"own": own / size, "touched": total == total, "equal": same(one, values), "apart": moved, "frozen": frozen}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    from stages.__main__ import return_memory

    return_memory()
    torch.set_num_threads(1)
    ranks, place = join(zero=3), Path(sys.argv[1])
    words = tokenizer_of(["the", "cat", "sat"])
    shard(new_llama(Llama(**SMALL), words, 1), CONFIG)  # wakes the libraries
    found = {"room": room(words), "tied": new(True, words), "untied": new(False, words), "loaded": loaded(place / "model", words)}
    (place / f"{ranks.rank}.json").write_text(json.dumps(found))
