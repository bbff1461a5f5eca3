"""README.md of an artifact whose adapters lie apart from their base: how to load it with peft from anywhere. Torch-free.

Neither peft nor transformers looks for a base from the adapter's folder: a relative name (which lets a run be moved) they take from the working directory.
"""

from collections.abc import Sequence
from pathlib import Path

from stages.adapters.bases import Base
from stages.adapters.config import AdapterSpec, QLora

HERE = "path/to/this/folder"
LOADING = """\
from pathlib import Path

from peft import PeftModel
from transformers import {auto}, AutoTokenizer

here = Path("{here}").resolve()
tokenizer = AutoTokenizer.from_pretrained(here)
base = {auto}.from_pretrained(here / "{base}"{labels})
model = PeftModel.from_pretrained(base, here{inside}, adapter_name="{first}")
"""
PAD = "model.config.pad_token_id = tokenizer.pad_token_id\n"
MORE = 'model.load_adapter(here / "{name}", adapter_name="{name}")\n'
ALL_ACT = "model.base_model.set_adapter({names}, inference_mode=True)\n"


def readme(names: Sequence[str], settings: Sequence[AdapterSpec], base: Base, *, judges: bool) -> str | None:
    """The page; None where the base's name can be found from anywhere: on the Hub, or by a whole path. `judges`: it is a reward model."""
    if not base.name.startswith("."):
        return None
    several = len(names) > 1
    code = LOADING.format(
        auto="AutoModelForSequenceClassification" if judges else "AutoModelForCausalLM",
        here=HERE,
        base=Path(base.name).as_posix(),
        labels=", num_labels=1" if judges else "",
        inside=f' / "{names[0]}"' if several else "",
        first=names[0],
    )
    code += PAD if judges else ""
    code += "".join(MORE.format(name=name) for name in names[1:]) + (ALL_ACT.format(names=list(names)) if several else "")
    held = "one adapter" if not several else f"{len(names)} adapters, all of which act"
    four = " Its base is held in four bits (NF4, bitsandbytes) while it is trained: load it so for the same outputs."
    quantised = four if any(isinstance(one, QLora) for one in settings) else ""
    return (
        f"# {held[0].upper()}{held[1:]}\n\nThe base lies in `{base.name}`, seen from this folder; peft's one-liner would look there from the working directory. "
        f"From anywhere:{quantised}\n\n```python\n{code}```\n\n`pipeline export RUN STAGE` writes one whole model; `pipeline publish` names the published base.\n"
    )
