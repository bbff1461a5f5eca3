"""A token in the environment and a script in the data, through a whole small chain of real stages and everything that shows it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline import execute
from pipeline.__main__ import main
from tests.command import CANARY
from tests.hub.fixtures import TOKEN
from tests.hub.fixtures import hub as hub
from tests.hub.server import Server
from tests.pipeline.forked import fork

pytestmark = pytest.mark.slow

SCRIPT = "<script>alert('planted')</script>"
FILE = "chats<img src=x onerror=alert(1)>.jsonl"
RECIPE = f"""\
name: planted  # {SCRIPT}
seed: 1
track: [tensorboard]
stages:
  words: {{kind: tokenizer, vocab_size: 320, data: [{{path: stories.jsonl}}]}}
  base:
    kind: pretrain
    tokenizer: words
    model: {{hidden_size: 32, layers: 2, heads: 4, context: 96}}
    data: [{{path: stories.jsonl}}]
    tokens: 2_000
    batch_tokens: 384
  chat: {{kind: sft, model: base, data: [{{path: "{FILE}"}}], batch_tokens: 384, epochs: 10, optimizer: {{learning_rate: 1e-2}}}}
  judge: {{kind: reward, model: chat, data: [{{path: pairs.jsonl}}], batch_pairs: 8, epochs: 1}}
  policy:
    kind: ppo
    model: chat
    rewards: [{{model: judge}}]
    prompts: [{{path: prompts.jsonl}}]
    steps: 2
    batch: 4
    minibatches: 1
    critic_warmup: 0
    evaluate_every: 1
    sampling: {{max_new_tokens: 40}}
  exam:
    kind: evaluate
    models: [base, chat, policy]
    tasks: [{{name: all, prompts: [{{path: prompts.jsonl}}], rule: exact}}]
    rewards: [{{model: judge}}]
    best_of: 2
    sampling: {{max_new_tokens: 40}}
"""


def write(folder: Path) -> None:
    asked = [{"role": "user", "content": f"who {number} <b>"} for number in range(40)]
    rows = {
        "stories": [{"text": f"once {number} {SCRIPT} there was"} for number in range(40)],
        FILE.removesuffix(".jsonl"): [{"messages": [one, {"role": "assistant", "content": SCRIPT}]} for one in asked],
        "pairs": [{"prompt": one["content"], "chosen": SCRIPT, "rejected": "no"} for one in asked],
        "prompts": [{"prompt": one["content"], "reference": SCRIPT} for one in asked],
    }
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "planted.yaml").write_text(RECIPE)


def test_a_planted_token_and_a_planted_script_are_nowhere_they_should_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hub: Server
) -> None:
    from huggingface_hub import HfApi
    from markdown_it import MarkdownIt

    import stages.ppo.run
    import stages.sft.run  # noqa: F401 - loaded once, for all the processes that are forked
    from pipeline.publish import publish, secret_values

    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SOME_SECRET"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setattr(execute, "spawn", fork)
    write(tmp_path)
    assert main(["run", "planted.yaml"]) == 0, capfd.readouterr().err
    run = tmp_path / "runs" / "planted"
    for stage in ("chat", "policy"):
        said = [json.loads(line)["answer"] for line in (run / stage / "samples.jsonl").read_text().splitlines()]
        assert any(SCRIPT in answer for answer in said), "the model says it: else nothing is tested"
    assert SCRIPT in (run / "exam" / "artifact" / "samples.md").read_text()

    other = shutil.copytree(run, tmp_path / "runs" / "other", symlinks=True)
    job = other / "chat" / "job.json"
    job.write_text(job.read_text().replace(FILE, f"other-{FILE}"))
    assert main(["report", "runs/planted"]) == 0
    assert main(["compare", "runs/planted", "runs/other", "--html", "compare.html"]) == 0
    pages = {page.name: page.read_text() for page in (run / "report.html", tmp_path / "compare.html")}
    for name, page in pages.items():
        own = re.sub(
            r'<script type="application/json" id="charts">[^<]*</script>|<script>"use strict";.*?</script>', "", page, flags=re.DOTALL
        )
        assert "<script" not in own, name
        assert "<img" not in own, name
    assert "&lt;script&gt;alert(" in pages["report.html"]
    assert "&lt;img src=x" in pages["compare.html"]

    done = publish(run, secrets=secret_values({"HF_TOKEN": CANARY}), api=HfApi(endpoint=hub.url, token=TOKEN))
    for one in done:
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(one.card.partition("\n---\n")[2])
        assert "<script" not in shown, one.stage
        assert "<img" not in shown, one.stage
    assert any("alert(" in one.card for one in done), "samples are shown"

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"events.jsonl", "metrics.jsonl", "log.txt", "env.json", "manifest.json", "compare.html"} <= {file.name for file in files}
    assert any("tfevents" in file.name for file in files)
    secrets = (CANARY.encode(), TOKEN.encode())
    assert [str(file) for file in files if any(secret in file.read_bytes() for secret in secrets)] == []
    sent = [hub.content(one.repository, file) for one in done for file in one.files]
    assert [content for content in sent if any(secret in content for secret in secrets)] == []
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err
