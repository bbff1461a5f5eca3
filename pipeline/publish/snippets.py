"""How to load what was published: the few lines of plain transformers that stand in the card. A test runs them."""

from pipeline.publish.finished import Finished

CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{revision})
model = AutoModelForCausalLM.from_pretrained(name{revision})

messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""

TEXT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{revision})
model = AutoModelForCausalLM.from_pretrained(name{revision})

inputs = tokenizer("Once upon a time", return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""

REWARD = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{revision})
model = AutoModelForSequenceClassification.from_pretrained(name{revision})

messages = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hello. How can I help?"}}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
score = model(**inputs).logits[0, 0].item()
print(score)
"""

STANDARDISED = "print((score - {mean!r}) / {std!r})  # standardised on held-out answers\n"

TOKENIZER = """\
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}{revision})
print(tokenizer.tokenize("Hello, world!"))
"""

ADAPTER = """\
from peft import {auto}
from transformers import AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{revision})
model = {auto}.from_pretrained(name{revision})
"""


def loading(stage: Finished, repository: str, revision: str | None) -> str:
    """The lines for this stage's artifact."""
    values = {"name": f'"{repository}"', "revision": f', revision="{revision}"' if revision else ""}
    kind, artifact = stage.artifact.kind, stage.artifact
    if kind == "tokenizer":
        return TOKENIZER.format(**values)
    if "artifact/adapter_config.json" in stage.manifest["files"]:
        auto = "AutoPeftModelForSequenceClassification" if kind == "reward-model" else "AutoPeftModelForCausalLM"
        return ADAPTER.format(auto=auto, **values)
    if kind == "reward-model":
        is_standardised = artifact.reward_mean is not None and artifact.reward_std
        return REWARD.format(**values) + (
            STANDARDISED.format(mean=artifact.reward_mean, std=artifact.reward_std) if is_standardised else ""
        )
    # A pretrained model has the template, but has not learned to answer.
    return (CHAT if artifact.template_digest and stage.kind != "pretrain" else TEXT).format(**values)
