"""A run whose models are real and tiny: two that talk and one that judges."""

from pathlib import Path
from typing import Any

from tests.pipeline.publish.runs import add_stage

WORDS = ["hello", "you", "there", "cat", "dog", "runs", "sits", "good", "bad", "the", "a"]


def make(runs: Path) -> Path:
    """`runs/tiny` with stages base, policy and judge; finished in this order."""
    from tests.stages.tiny import causal_lm, saved, tokenizer_of

    run = runs / "tiny"
    run.mkdir(parents=True)
    tokenizer = tokenizer_of(WORDS)
    for number, name in enumerate(("base", "policy")):
        _add(run, name, "pretrain", "causal-lm", saved(causal_lm(tokenizer, seed=number), tokenizer, runs / f"saved-{name}"))
    _add(run, "judge", "reward", "reward-model", saved(judge(tokenizer), tokenizer, runs / "saved-judge"), reward_mean=0.5, reward_std=2.0)
    return run


def judge(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaForSequenceClassification

    from tests.stages.tiny import causal_lm

    config = causal_lm(tokenizer).config
    config.num_labels = 1
    torch.manual_seed(7)
    return LlamaForSequenceClassification(config).eval()


def _add(run: Path, name: str, kind: str, makes: str, folder: Path, **says: Any) -> None:
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    add_stage(run, name, kind, files, makes=makes, artifact={"template_digest": "ab" * 32, **says})
