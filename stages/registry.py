"""The table of stages: a new one is a folder and a line here. Text only, so that reading the table imports nothing."""

from importlib import import_module
from typing import Any

STAGES: dict[str, tuple[str, str]] = {
    "world": ("stages.world.config:World", "stages.world.run:run"),
    "arithmetic": ("stages.arithmetic.config:Arithmetic", "stages.arithmetic.run:run"),
    "corpus": ("stages.corpus.config:Corpus", "stages.corpus.run:run"),
    "tokenizer": ("stages.tokenizer.config:Tokenizer", "stages.tokenizer.run:run"),
    "pretrain": ("stages.pretrain.config:Pretrain", "stages.pretrain.run:run"),
    "sft": ("stages.sft.config:SFT", "stages.sft.run:run"),
    "reward": ("stages.reward.config:Reward", "stages.reward.run:run"),
    "ppo": ("stages.ppo.config:PPO", "stages.ppo.run:run"),
    "sample": ("stages.sample.config:Sample", "stages.sample.run:run"),
    "evaluate": ("stages.evaluate.config:Evaluate", "stages.evaluate.run:run"),
}


def config_class(kind: str) -> Any:
    """The pydantic model of a stage kind. Raises KeyError for an unknown kind."""
    return _load(STAGES[kind][0])


def run_function(kind: str) -> Any:
    """The stage's `run(job, config, hardware) -> Result`; importing it may import torch."""
    return _load(STAGES[kind][1])


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
