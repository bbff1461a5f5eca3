"""How to load what was published: the few lines of plain transformers that stand in the card. A test runs them."""

import json

from pipeline.publish.finished import Finished
from pipeline.publish.places import Place

CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{more})
model = AutoModelForCausalLM.from_pretrained(name{more})

messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""

TEXT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{more})
model = AutoModelForCausalLM.from_pretrained(name{more})

inputs = tokenizer("Once upon a time", return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""

REWARD = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{more})
model = AutoModelForSequenceClassification.from_pretrained(name{more})

messages = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hello. How can I help?"}}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
score = model(**inputs).logits[0, 0].item()
print(score)
"""

STANDARDISED = "print((score - {mean!r}) / {std!r})  # standardised on held-out answers\n"

TOKENIZER = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}{more})
print(tokenizer.tokenize("Hello, world!"))
"""

ADAPTER = """\
from peft import {auto}
from transformers import AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{more})
model = {auto}.from_pretrained(name{more}{labels})
"""

ON_BASE = """\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{more})
base = {auto}.from_pretrained({base}{labels})
model = PeftModel.from_pretrained(base, name{first})
"""
"""Where the adapter lies in a folder: peft's own one-liner would look for the base in a folder of that name too."""

ONE_MORE = "model.load_adapter(name, {adapter}{where})\n"
ALL_ACT = "model.base_model.set_adapter({all}, inference_mode=True)\n"


def loading(stage: Finished, place: Place, base: Place | None) -> str:
    """The lines for this stage's artifact. `base` is where the base of its adapters lies; None for a whole model."""
    values = {"name": f'"{place.repository}"', "more": place.arguments}
    kind, artifact = stage.artifact.kind, stage.artifact
    if kind == "tokenizer":
        return TOKENIZER.format(**values)
    if base is not None:
        return _adapters(kind, adapters_of(stage), place, base)
    if kind == "reward-model":
        is_standardised = artifact.reward_mean is not None and artifact.reward_std
        return REWARD.format(**values) + (
            STANDARDISED.format(mean=artifact.reward_mean, std=artifact.reward_std) if is_standardised else ""
        )
    # A pretrained model has the template, but has not learned to answer.
    return (CHAT if artifact.template_digest and stage.kind != "pretrain" else TEXT).format(**values)


def adapters_of(stage: Finished) -> list[str]:
    """Names of the adapters that an artifact holds in folders of their own, or `default` for a single one beside its files."""
    folders = [name.split("/")[1:-1] for name in stage.manifest["files"] if name.endswith("/adapter_config.json")]
    return [folder[0] if folder else "default" for folder in folders]


def _adapters(kind: str, names: list[str], place: Place, base: Place) -> str:
    is_judge = kind == "reward-model"
    values = {"name": f'"{place.repository}"', "more": place.arguments, "labels": ", num_labels=1" if is_judge else ""}
    if names == ["default"] and not place.folder:
        return ADAPTER.format(auto="AutoPeftModelForSequenceClassification" if is_judge else "AutoPeftModelForCausalLM", **values)
    auto = "AutoModelForSequenceClassification" if is_judge else "AutoModelForCausalLM"
    first = place.arguments if names == ["default"] else f", adapter_name={json.dumps(names[0])}{place.inside(names[0]).arguments}"
    more = [ONE_MORE.format(adapter=json.dumps(name), where=place.inside(name).arguments) for name in names[1:]]
    told = ON_BASE.format(auto=auto, base=f'"{base.repository}"{base.arguments}', first=first, **values)
    return "".join([told, *more, ALL_ACT.format(all=json.dumps(names)) if more else ""])
