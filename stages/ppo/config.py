"""Settings of the PPO stage. Torch-free."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Source, Spec, Takes
from stages.adapters.config import Adapter
from stages.core.config import ModelRef, Optimizer, RewardPart, Sampling, Sources, StageConfig


class KL(Spec):
    """The per-token penalty that keeps the policy near the reference, and how strong it is."""

    coefficient: float = Field(0.05, ge=0)
    """Reward subtracted per nat of KL (k1 estimator, in the reward: the one whose gradient is exact)."""
    target: float | None = Field(None, gt=0)
    """Mean KL per answer, in nats, that an adaptive controller steers the coefficient to (Ziegler et al. 2019); fixed if left out."""
    horizon: int = Field(10_000, gt=0)
    """Answers over which the adaptive controller acts."""


class PolicyOptimizer(Optimizer):
    learning_rate: float = Field(1e-6, gt=0, lt=1)


class CriticOptimizer(Optimizer):
    learning_rate: float = Field(1e-5, gt=0, lt=1)


class PPO(StageConfig):
    """Improve a policy against rewards by proximal policy optimization (Schulman et al. 2017), with a critic and a KL penalty."""

    makes: ClassVar[str] = "causal-lm"
    kind: Literal["ppo"] = "ppo"
    model: ModelRef
    """Policy to start from, and the frozen reference."""
    rewards: tuple[RewardPart, ...] = Field(min_length=1)
    """Weighted sum of reward models and rules, given at the last token of an answer."""
    critic: Annotated[str | None, Takes("reward-model", "causal-lm")] = None
    """Model the critic starts from; the first reward model, or else the policy, if left out."""
    prompts: Sources
    """Prompts to answer; a `reference` column is handed to rules."""
    validation: tuple[Source, ...] = ()
    """Held-out prompts; a share of `prompts`, chosen by content hash, if left out."""
    held_out: float = Field(0.05, gt=0, lt=0.5)
    """Share of prompts held out where `validation` is left out."""
    steps: int = Field(gt=0)
    """Rollouts, each followed by `epochs` passes of updates."""
    batch: int = Field(128, gt=1)
    """Answers per rollout, over all processes."""
    minibatches: int = Field(4, gt=0)
    """Optimizer steps per pass over a rollout."""
    epochs: int = Field(1, gt=0)
    """Passes over each rollout."""
    sampling: Sampling = Sampling()
    kl: KL = KL()
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token; 1 for answers."""
    lam: float = Field(0.95, ge=0, le=1)
    """GAE's bias-variance trade (Schulman et al. 2016): 1 uses returns, smaller values trust the critic more."""
    clip: float = Field(0.2, gt=0)
    """Policy ratios are clipped to 1 ± clip."""
    value_clip: float | None = Field(0.2, gt=0)
    """Values may move by this much from the rollout's in one update; no limit if null."""
    whiten: bool = True
    """Advantages are brought to mean 0 and deviation 1 over the whole rollout."""
    entropy: float = Field(0.0, ge=0)
    """Coefficient of an entropy bonus."""
    missing_eos_penalty: float = Field(1.0, ge=0)
    """Subtracted from the reward of an answer that did not end (Huang et al. 2024)."""
    critic_warmup: int = Field(10, ge=0)
    """Rollouts in which only the critic learns."""
    policy_optimizer: PolicyOptimizer = PolicyOptimizer()
    critic_optimizer: CriticOptimizer = CriticOptimizer()
    adapter: Adapter | None = None
    """Train an adapter of the policy; the reference is then the policy with the adapter off, and needs no second copy."""
    evaluate_every: Annotated[int, Field(gt=0)] = 20
    """Rollouts between evaluations on held-out prompts."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.batch % self.minibatches:
            raise ValueError(f"batch {self.batch} is not a multiple of minibatches {self.minibatches}")
        if self.critic_warmup >= self.steps:
            raise ValueError(f"critic_warmup {self.critic_warmup} leaves no step of {self.steps} for the policy")
        return self
