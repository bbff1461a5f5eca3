"""The page beside adapters that lie apart from their base: its lines, run by a stranger in another folder, give what we compute."""

import json
import re
import subprocess
import sys

import pytest
import torch

from stages.adapters.bases import Base
from stages.adapters.config import Lora
from stages.adapters.readme import HERE, readme
from stages.core.models import load_causal_lm, load_reward_model
from tests.stages.adapters.chain import Chain
from tests.stages.tiny import CPU

IDS = [[5, 9, 12, 7]]
STACK = {"kind": "lora", "rank": 2, "hand_over": "stack", "targets": "attention"}
FAST = {"optimizer": {"learning_rate": 0.1}}
PROBE = """
import json, sys, torch
with torch.no_grad():
    print(json.dumps(model.eval()(input_ids=torch.tensor({ids})).logits.flatten().tolist()))
assert not {{"stages", "pipeline", "data"}} & set(sys.modules)
"""


@pytest.mark.slow
def test_its_lines_load_what_we_load_from_any_folder(tmp_path):
    (tmp_path / "made").mkdir()
    chain = Chain(tmp_path / "made")
    chain.run("one", "sft", adapter=STACK, **FAST)
    chain.run("two", "sft", model="one", adapter=STACK, **FAST)
    chain.run("judge", "reward", adapter=STACK, **FAST)
    (tmp_path / "made").rename(tmp_path / "moved")
    program, expected = "", []
    for name in ("one", "two", "judge"):
        folder = tmp_path / "moved" / f"{name}-0" / "artifact"
        [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert code.count(HERE) == 1
        program += code.replace(HERE, f"moved/{name}-0/artifact") + PROBE.format(ids=IDS)
        model = (load_reward_model if name == "judge" else load_causal_lm)(folder, CPU)
        with torch.no_grad():
            expected.append(model(input_ids=torch.tensor(IDS)).logits.flatten().tolist())
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line, values in zip(done.stdout.splitlines(), expected, strict=True):
        assert json.loads(line) == pytest.approx(values, abs=1e-5)
    assert expected[0] != expected[1]


@pytest.mark.parametrize("name", ["owner/name", "/models/base"])
def test_a_base_that_can_be_found_from_anywhere_needs_no_page(tmp_path, name):
    assert readme(["chat"], [Lora()], Base(tmp_path, name), judges=False) is None
