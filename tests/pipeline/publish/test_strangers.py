"""Who knows nothing of this project loads what was published: real models, by the card's own lines, in a fresh process, from the Hub alone."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from tests.hub.fixtures import TOKEN
from tests.hub.server import Server
from tests.pipeline.publish.runs import add_stage, publish

pytestmark = pytest.mark.slow

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
IDS = list(range(5, 25))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    return tmp_path / "runs" / "tiny"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<eos>", "<user>", "<assistant>"]
    core = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate([*words, *alphabet])}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(words)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE)


def llama(kind: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=None, num_labels=1)
    return (LlamaForSequenceClassification if kind == "reward-model" else LlamaForCausalLM)(config).eval()


def outputs(model: Any) -> list[float]:
    import torch

    with torch.no_grad():
        return [round(float(value), 4) for value in model(input_ids=torch.tensor([IDS])).logits.reshape(-1)[:20]]


def add(run: Path, name: str, kind: str, makes: str, write: Callable[[Path], None], **how: Any) -> None:
    folder = run.parent / f"saved-{name}"
    write(folder)
    tokenizer().save_pretrained(folder)
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    add_stage(run, name, kind, files, makes=makes, **how)


def stranger(hub: Server, home: Path, program: str) -> list[str]:
    """Lines that a fresh process prints, outside this project, that knows only where the Hub is."""
    names = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    names |= {"HF_HUB_DISABLE_XET": "1", "PATH": os.environ["PATH"], "TOKENIZERS_PARALLELISM": "false"}
    home.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", program], cwd=home, env=names, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def snippet(card: str) -> str:
    found = re.search(r"## How to load it\n\n```python\n(.*?)\n```", card, flags=re.DOTALL)
    assert found
    return found[1]


PROBE = """
import json, torch
with torch.no_grad():
    print("OUTPUTS", json.dumps([round(float(v), 4) for v in model.eval()(input_ids=torch.tensor([{ids}])).logits.reshape(-1)[:20]]))
"""


def test_every_kind_of_model_gives_a_stranger_the_same_outputs(hub: Server, run: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, judge = llama("causal-lm"), llama("reward-model")
    add(run, "base", "pretrain", "causal-lm", base.save_pretrained)
    add(run, "chat", "sft", "causal-lm", lambda folder: base.save_pretrained(folder, max_shard_size="50KB"), inputs={"model": "base"})
    scores = {"reward_mean": 0.5, "reward_std": 2.0}
    add(run, "judge", "reward", "reward-model", judge.save_pretrained, inputs={"model": "chat"}, artifact=scores)
    expected = {"base": outputs(base), "chat": outputs(base), "judge": outputs(judge)}
    light = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    light.peft_config["default"].base_model_name_or_path = str((run / "base" / "artifact").resolve())

    def with_config(folder: Path) -> None:
        light.save_pretrained(folder)
        base.config.save_pretrained(folder)

    add(run, "light", "sft", "causal-lm", with_config, inputs={"model": "base"})
    expected["light"] = outputs(light.eval())
    assert expected["light"] != expected["base"]

    done = {one.stage: one for one in publish(run, api=HfApi(endpoint=hub.url, token=TOKEN))}
    assert sum(name.startswith("model-") for name in done["chat"].files) > 1
    adapter = json.loads(hub.content("me/tiny-light", "adapter_config.json"))
    assert adapter["base_model_name_or_path"] == "me/tiny-base"
    assert str(tmp_path) not in json.dumps(adapter)
    programs = [snippet(done[name].card) + PROBE.format(ids=IDS) for name in expected]
    lines = stranger(hub, tmp_path / "home", "\n".join(programs))
    found = [json.loads(line.removeprefix("OUTPUTS ")) for line in lines if line.startswith("OUTPUTS ")]
    assert found == list(expected.values())


def adapters(base: Any, where: str, *names: str, revision: str | None = None) -> tuple[Callable[[Path], None], list[float]]:
    """What writes adapters on a base at `where` (one beside its files, or several in folders), and the outputs of the base with them all."""
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(deepcopy(base), settings, adapter_name=names[0] if names else "default")
    for name in names[1:]:
        model.add_adapter(name, settings)
    for config in model.peft_config.values():
        config.base_model_name_or_path, config.revision = where, revision
    if len(names) > 1:
        model.base_model.set_adapter(list(names), inference_mode=True)
    return lambda folder: model.save_pretrained(folder, save_embedding_layers=False), outputs(model.eval())


@pytest.mark.parametrize("layout", ["branches", "folders"])
def test_the_cards_of_a_family_in_one_repository_load_what_they_describe(hub: Server, run: Path, tmp_path: Path, layout: str) -> None:
    base, judge, api = llama("causal-lm"), llama("reward-model"), HfApi(endpoint=hub.url, token=TOKEN)
    add(run, "base", "pretrain", "causal-lm", base.save_pretrained)
    add(
        run,
        "judge",
        "reward",
        "reward-model",
        judge.save_pretrained,
        inputs={"model": "base"},
        artifact={"reward_mean": 0.5, "reward_std": 2.0},
    )
    add(run, "words", "tokenizer", "tokenizer", lambda folder: folder.mkdir())
    expected = {"base": outputs(base), "judge": outputs(judge)}
    here = str((run / "base" / "artifact").resolve())
    if layout == "folders":  # whose adapters can only have a base of another repository
        [elsewhere] = publish(run, ["base"], name="other", api=api)
        here = elsewhere.repository
    makes = {"light": (), "stacked": ("one", "two")}
    for name, names in makes.items():
        write, expected[name] = adapters(base, here, *names, revision=elsewhere.commit if layout == "folders" else None)
        origin = f"hub:{here}@{elsewhere.commit}" if layout == "folders" else "base"
        add(run, name, "sft", "causal-lm", write, inputs={"model": origin})
    known = ["base", "judge", "words", *makes]
    done = {one.stage: one for one in publish(run, known, api=api, layout=layout, license="mit", acknowledge=("me/other-base",))}
    assert {one.repository for one in done.values()} == {"me/tiny"}
    page = hub.content("me/tiny", "README.md").decode()
    names = (*expected, "words")
    programs = [snippet(done[name].card) for name in names] + [section(page, name) for name in names]
    probes = [*[PROBE.format(ids=IDS)] * len(expected), "print(tokenizer.chat_template)"] * 2
    lines = stranger(hub, tmp_path / "home", "\n".join(line for pair in zip(programs, probes, strict=True) for line in pair))
    found = [json.loads(line.removeprefix("OUTPUTS ")) for line in lines if line.startswith("OUTPUTS ")]
    assert found == [*expected.values()] * 2
    assert lines.count(TEMPLATE) == 2
    assert len({tuple(values) for values in expected.values()}) == len(expected)


def section(page: str, stage: str) -> str:
    """The lines of a family's page that load one of it."""
    found = re.search(rf"## {stage}\n\n```python\n(.*?)\n```", page, flags=re.DOTALL)
    assert found
    return found[1]


def test_a_tokenizer_speaks_the_same_to_a_stranger(hub: Server, run: Path, tmp_path: Path) -> None:
    add(run, "words", "tokenizer", "tokenizer", lambda folder: folder.mkdir())
    [done] = publish(run, api=HfApi(endpoint=hub.url, token=TOKEN))
    chat = 'print(tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False))'
    shown, rendered = stranger(hub, tmp_path / "home", f"{snippet(done.card)}\n{chat}")
    assert eval(shown) == tokenizer().tokenize("Hello, world!")  # noqa: S307 - a list that the card's own line printed
    assert rendered == "<user>Hi<eos>"


def test_adapters_that_stages_left_give_a_stranger_what_they_give_us(hub: Server, run: Path, tmp_path: Path) -> None:
    import torch

    from stages.core.models import load_causal_lm, load_reward_model
    from tests.stages.adapters.chain import Chain
    from tests.stages.tiny import CPU

    lora = {"kind": "lora", "rank": 4, "targets": "attention", "hand_over": "stack"}
    (tmp_path / "chain").mkdir()
    chain = Chain(tmp_path / "chain")
    chain.run("one", "sft", adapter=lora, optimizer={"learning_rate": 0.1})
    chain.run("three", "sft", model="one", adapter=lora, optimizer={"learning_rate": 0.1})
    chain.run("judge", "reward", adapter=lora, optimizer={"learning_rate": 0.1})
    expected = {}
    for name, kind, makes, inputs in (
        ("base", "pretrain", "causal-lm", {}),
        ("one", "sft", "causal-lm", {"model": "base"}),
        ("three", "sft", "causal-lm", {"model": "one"}),
        ("judge", "reward", "reward-model", {"model": "base"}),
    ):
        folder = chain.artifact(name)
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        if name != "base":  # the run's folders have other names than the chain's
            found = (run / "base").readlink().name.encode()
            files = {
                file: content.replace(b"base-0", found) if file.endswith("_config.json") else content for file, content in files.items()
            }
        says = json.loads(files.pop("artifact.json", b"{}"))
        add_stage(run, name, kind, files, makes=makes, inputs=inputs, artifact={**says, "kind": makes})
        model = (load_reward_model if makes == "reward-model" else load_causal_lm)(folder, CPU)
        with torch.no_grad():
            expected[name] = model(input_ids=torch.tensor([IDS])).logits.reshape(-1)[:20].tolist()
    assert expected["one"] != expected["base"]
    assert expected["three"] != expected["one"]

    done = {one.stage: one for one in publish(run, api=HfApi(endpoint=hub.url, token=TOKEN))}
    programs = [snippet(done[name].card) + PROBE.format(ids=IDS) for name in expected]
    lines = stranger(hub, tmp_path / "home", "\n".join(programs))
    found = [json.loads(line.removeprefix("OUTPUTS ")) for line in lines if line.startswith("OUTPUTS ")]
    for name, values in zip(expected, found, strict=True):
        assert values == pytest.approx(expected[name], abs=2e-4), name
