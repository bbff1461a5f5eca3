"""Whole stages on models of a few thousand weights, a step or two long, chained as a recipe would."""

import json
from pathlib import Path
from typing import Any

from stages.contract import Artifact, Job, Result
from stages.registry import config_class, run_function
from tests.stages.tiny import causal_lm, job_of, saved, tokenizer_of

WORDS = ["yes", "no", "cat", "dog", "sun", "moon", "red", "blue", "say", "the", "word", "please"]
PRETRAIN = {"tokens": 96, "batch_tokens": 96, "optimizer": {"learning_rate": 1e-2}}
SFT = {"epochs": 1, "batch_tokens": 96, "optimizer": {"learning_rate": 1e-2}}
REWARD = {"epochs": 1, "batch_pairs": 8, "optimizer": {"learning_rate": 1e-2}}
PPO = {
    "rewards": [{"rule": "regex:yes"}],
    "steps": 2,
    "batch": 4,
    "minibatches": 1,
    "critic_warmup": 0,
    "evaluation_prompts": 3,
    "held_out": 0.3,
    "sampling": {"max_new_tokens": 4},
    "policy_optimizer": {"learning_rate": 1e-2},
    "critic_optimizer": {"learning_rate": 1e-2},
}
SETTINGS: dict[str, dict[str, Any]] = {"pretrain": PRETRAIN, "sft": SFT, "reward": REWARD, "ppo": PPO}


class Chain:
    """A run directory: stages by name, each from the artifact of another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokenizer = tokenizer_of(WORDS)
        model = causal_lm(self.tokenizer, seed=1)
        self.base = saved(model, self.tokenizer, root / "base-0" / "artifact")
        self.kinds = {"base": "causal-lm"}
        self.data = self._data()

    def artifact(self, name: str) -> Path:
        return self.base if name == "base" else self.root / f"{name}-0" / "artifact"

    def says(self, name: str) -> Artifact:
        return Artifact.model_validate_json((self.artifact(name) / "artifact.json").read_text())

    def job(self, name: str, kind: str, model: str = "base", adapter: dict[str, Any] | None = None, **changes: Any) -> Job:
        """`judge` names a reward model of the chain for PPO."""
        config: dict[str, Any] = {**SETTINGS[kind], "model": model, **changes}
        inputs = {"model": (self.kinds[model], self.artifact(model))}
        if (judge := config.pop("judge", None)) is not None:
            config["rewards"] = [{"model": judge}]
            inputs["rewards.0.model"] = ("reward-model", self.artifact(judge))
        if config.get("critic"):
            inputs["critic"] = (self.kinds[config["critic"]], self.artifact(config["critic"]))
        field = "prompts" if kind == "ppo" else "data"
        config[field] = [{"path": self.data[kind].name}]
        if adapter is not None:
            config["adapter"] = adapter
        job = job_of(self.root / f"{name}-0", kind, config, inputs=inputs, files={f"{field}.0": [self.data[kind]]}, seed=3)
        self.kinds[name] = "reward-model" if kind == "reward" else "causal-lm"
        return job.model_copy(update={"stage": name})

    def run(self, *args: Any, **kwargs: Any) -> Result:
        job = self.job(*args, **kwargs)
        return run_function(job.kind)(job, config_class(job.kind).model_validate(job.config), job.hardware)

    def _data(self) -> dict[str, Path]:
        answers = list(zip(WORDS, WORDS[1:] + WORDS[:1], strict=True))
        rows: dict[str, list[dict[str, Any]]] = {
            "pretrain": [{"text": f"{one} {two} the word {one}"} for one, two in answers for _ in range(4)],
            "sft": [{"prompt": f"say the word {one}", "completion": one} for one, _ in answers],
            "reward": [{"prompt": f"say the word {one}", "chosen": one, "rejected": two} for one, two in answers],
            "ppo": [{"prompt": f"say the word {one}"} for one, _ in answers],
        }
        files = {}
        for kind, content in rows.items():
            files[kind] = self.root / f"{kind}.jsonl"
            files[kind].write_text("".join(json.dumps(row) + "\n" for row in content))
        return files
