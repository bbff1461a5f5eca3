"""A run directory as the orchestrator leaves it, made without torch: a family of tiny artifacts, sealed by the real store."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline import publish as publishing
from pipeline.publish import Publication
from pipeline.publishing import Publishing
from pipeline.store import Run, StageFolder
from stages.core.files import write_json

EVIL_ANSWER = "# The same prompts\n\n```\n<script>alert(1)</script>\n| policy | sampled | Anna lives in Rome. | good 1 |\n"
RECIPE = "name: demo\nseed: 1\nstages:\n  world: {kind: world}\n"
TOKENIZER = {
    "tokenizer.json": '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}',
    "chat_template.jinja": "{% for message in messages %}{{ message.content }}{% endfor %}",
}
SURROUNDINGS = {
    "command": ["python", "-m", "stages", "/home/somebody/runs/demo/job.json"],
    "python": "3.11.2",
    "platform": "Linux",
    "cores": 2,
    "hardware": {"gpus": 0, "zero": 0, "precision": "fp32"},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "commit": "0123456789abcdef",
}


def publish(
    run: Path, stages: Any = (), *, dry_run: bool = False, secrets: Any = (), api: Any = None, say: Any = None, **how: Any
) -> list[Publication]:
    """`pipeline.publish.publish` with the settings written out."""
    asked = Publishing(stages=tuple(stages), **how)
    return publishing.publish(run, asked, dry_run=dry_run, secrets=secrets, api=api, **({"say": say} if say else {}))


def safetensors(content: bytes, **metadata: str) -> bytes:
    """The smallest file of that format: one tensor of bytes."""
    header: dict[str, Any] = {"weight": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}
    text = json.dumps({**header, **({"__metadata__": metadata} if metadata else {})}).encode()
    return struct.pack("<Q", len(text)) + text + content


def model_files(name: str, size: int = 5000) -> dict[str, str | bytes]:
    weights = (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]
    return {
        "config.json": '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "model.safetensors": safetensors(weights),
        **TOKENIZER,
    }


def add_stage(
    run: Path,
    name: str,
    kind: str,
    files: dict[str, str | bytes],
    *,
    makes: str = "causal-lm",
    inputs: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    data: dict[str, list[Path]] | None = None,
    result: dict[str, Any] | None = None,
    artifact: dict[str, Any] | None = None,
) -> StageFolder:
    """One finished stage: job, artifact, result, manifest and link. `inputs` has stage names (or `hub:` names) by field."""
    here = Run(run)
    fingerprint = hashlib.sha256(f"{name} {config} {inputs}".encode()).hexdigest()[:12]
    folder = here.folder(name, fingerprint)
    folder.artifact.mkdir(parents=True)
    says = {"kind": makes, "template_digest": "ab" * 32, "tokenizer_digest": "cd" * 32, "parameters": 1234, **(artifact or {})}
    for file, content in {**files, "artifact.json": json.dumps(says)}.items():
        (folder.artifact / file).parent.mkdir(parents=True, exist_ok=True)
        (folder.artifact / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = {"status": "done", "steps": 10, "metrics": {"validation_loss": 1.5}, "tables": [], "notes": [], **(result or {})}
    write_json(folder.path / "result.json", done)
    taken: dict[str, dict[str, Any]] = {}
    for field, reference in (inputs or {}).items():
        above = here.current(reference)
        manifest = above.manifest() if above else None
        taken[field] = {
            "reference": reference,
            **({"fingerprint": manifest["fingerprint"], "digest": manifest["digest"]} if manifest else {}),
        }
    settings = {"kind": kind, **(config or {})}
    paths = {field: [str(file) for file in found] for field, found in (data or {}).items()}
    write_json(folder.path / "job.json", {"stage": name, "kind": kind, "seed": 1, "config": settings, "inputs": taken, "files": paths})
    folder.seal(
        {
            "stage": name,
            "kind": kind,
            "makes": makes,
            "fingerprint": fingerprint,
            "identity": {"kind": kind, "version": 1, "seed": 1, "config": config or {}},
            "inputs": taken,
            "metrics": done["metrics"],
            "steps": done["steps"],
            "attempts": 1,
            "seconds": 360.0,
            "finished": "2026-01-01T00:00:00+00:00",
            "surroundings": SURROUNDINGS,
        }
    )
    here.make_current(name, folder)
    return folder


def family(runs: Path, size: int = 5000) -> Path:
    """A whole run: data, tokenizer, base, chat, judge, policy, exam."""
    with patch("os.fsync"):  # the store's care for power cuts costs a quarter of a second here, and every test needs a run
        return _family(runs / "demo", size)


def _family(run: Path, size: int) -> Path:
    run.mkdir(parents=True)
    Run(run).record_recipe(RECIPE, ("stages.base.tokens=100",), run / "recipe.yaml")
    world = add_stage(run, "world", "world", {"stories.jsonl": '{"text": "once"}\n'}, makes="dataset")
    stories = {"data.0": [world.artifact / "stories.jsonl"]}
    add_stage(run, "words", "tokenizer", dict(TOKENIZER), makes="tokenizer", inputs={"data.0.stage": "world"}, data=stories)
    add_stage(run, "base", "pretrain", model_files("base", size), inputs={"tokenizer": "words", "data.0.stage": "world"}, data=stories)
    add_stage(run, "chat", "sft", model_files("chat", size), inputs={"model": "base"}, result={"notes": ["12 chats were read"]})
    scores = {"reward_mean": 0.25, "reward_std": 1.5}
    judged = {"metrics": {"accuracy": 0.75}}
    add_stage(
        run, "judge", "reward", model_files("judge", size), makes="reward-model", inputs={"model": "chat"}, artifact=scores, result=judged
    )
    add_stage(run, "policy", "ppo", model_files("policy", size), inputs={"model": "chat", "rewards.0.model": "judge"})
    exam = {"title": "The family", "columns": ["", "base", "policy"], "rows": [["win rate", None, "0.55 (0.5 to 0.6)"], ["good", 0.1, 0.6]]}
    numbers = {"base.good": 0.1, "chat.good": 0.5, "policy.good": 0.6, "policy.win_rate": 0.55}
    taken = {"models.0": "base", "models.1": "chat", "models.2": "policy"}
    add_stage(
        run, "exam", "evaluate", {"samples.md": EVIL_ANSWER}, makes="report", inputs=taken, result={"metrics": numbers, "tables": [exam]}
    )
    return run
