"""A job for the PPO stage on models of a few thousand weights: prompts to repeat a word, rewarded by rule or reward model."""

import json
from pathlib import Path
from typing import Any

import torch

from stages.contract import Job
from tests.stages.tiny import causal_lm, job_of, saved, tokenizer_of

WORDS = ["yes", "no", "cat", "dog", "sun", "moon", "red", "blue", "say", "the", "word", "please"]


def reward_model(tokenizer: Any, folder: Path, seed: int = 5, mean: float = 0.3, std: float = 2.0) -> Path:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = causal_lm(tokenizer).config
    config.num_labels = 1
    saved(LlamaForSequenceClassification(config).eval(), tokenizer, folder)
    (folder / "artifact.json").write_text(json.dumps({"kind": "reward-model", "reward_mean": mean, "reward_std": std}))
    return folder


def ppo_job(folder: Path, *, model_reward: bool = False, seed: int = 0, **changes: Any) -> Job:
    """A job of 6 rollouts of 16 answers; `changes` go into its settings."""
    parts = folder.parent / "parts"
    tokenizer = tokenizer_of(WORDS)
    inputs = {"model": ("causal-lm", saved(causal_lm(tokenizer, seed=1), tokenizer, parts / "chat"))}
    rewards: list[dict[str, Any]] = [{"rule": "regex:yes"}]
    if model_reward:
        inputs["rewards.0.model"] = ("reward-model", reward_model(tokenizer, parts / "judge"))
        rewards = [{"model": "judge"}, {"rule": "length:4", "weight": 0.5}]
    rows = [{"prompt": f"say the word {word}" + " please" * (number % 3), "reference": word} for number, word in enumerate(WORDS * 4)]
    prompts = parts / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config: dict[str, Any] = {
        "model": "chat",
        "rewards": rewards,
        "prompts": [{"path": "prompts.jsonl"}],
        "held_out": 0.3,
        "steps": 6,
        "batch": 16,
        "minibatches": 2,
        "critic_warmup": 1,
        "evaluate_every": 3,
        "evaluation_prompts": 8,
        "sampling": {"max_new_tokens": 6},
        "policy_optimizer": {"learning_rate": 1e-3},
        "critic_optimizer": {"learning_rate": 1e-3},
    }
    return job_of(folder, "ppo", config | changes, inputs=inputs, files={"prompts.0": [prompts]}, seed=seed)
