"""Settings of the PPO stage. Torch-free."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data.config import Context, Source, Spec, Takes, Wants
from stages.adapters.combinations import Carried, Situation
from stages.adapters.config import Adapter
from stages.contract import Hardware
from stages.core.config import TRAINED, ModelRef, Optimizer, Rewarded, RewardPart, Sampling, Sources, names_of
from stages.core.workload import Player, Workload

ANSWERED = ("reward", "reward_std", "reward_clipped", "kl", "kl_k2", "kl_k3", "length", "eos_rate", "entropy")
"""Means over answers, of the last rollouts and, as `held_out_...`, of the held-out prompts; `reward_PART` comes from `rewards`."""
ROLLED_OUT = (
    *("policy_loss", "clip_fraction", "approximate_kl", "mix_loss", "policy_grad_norm", "ratio_max", "ratio_min", "first_ratio_error"),
    *("value_loss", "value_clip_fraction", "critic_grad_norm", "explained_variance", "advantage_std", "value_mean"),
    *("sampler_difference", "sampler_kl", "importance_mean", "importance_max", "importance_capped"),
    *("coefficient", "learning_rate", "update_stopped", "tokens_per_second", "policy_loss_scale", "critic_loss_scale"),
)
"""Means over the last rollouts alone."""
UPDATED = (
    "policy_loss",
    "clip_fraction",
    "approximate_kl",
    "mix_loss",
    "policy_grad_norm",
    "value_loss",
    "value_clip_fraction",
    "critic_grad_norm",
)
"""Those of them that only an update which was taken has."""


class KL(Spec):
    """What keeps the policy near the reference, and how strongly."""

    coefficient: float = Field(0.05, ge=0)
    """Reward subtracted per nat of KL, token by token, by the k1 estimator: the one whose gradient is exact in the reward (k2 and k3 there move the optimum)."""
    target: float | None = Field(None, gt=0)
    """Mean KL per answer, in nats, that an adaptive controller steers the coefficient to (Ziegler et al. 2019); fixed if left out."""
    horizon: int = Field(10_000, gt=0)
    """Answers over which the adaptive controller acts; smaller is quicker and less steady."""
    loss: float = Field(0.0, ge=0)
    """Coefficient of a KL term in the loss, beside or instead of the one in the reward (GRPO's way; a biased gradient, but one of low variance)."""
    loss_estimator: Literal["k2", "k3"] = "k2"
    """Estimator of the term in the loss: k2's gradient is that of each token's own KL; k3's is that of KL(reference to policy), the other direction."""

    @model_validator(mode="after")
    def _can_be_steered(self) -> Self:
        if self.target is not None and not self.coefficient:
            raise ValueError("target steers coefficient by factors, and one of 0 stays 0; set it above 0, or leave target out")
        if self.target is None and self.horizon != type(self).model_fields["horizon"].default:
            raise ValueError(f"horizon {self.horizon} is about a coefficient that is steered; set target, or leave horizon out")
        if self.loss_estimator == "k3" and not self.loss:
            raise ValueError("loss_estimator: k3 is about a KL term in the loss; set loss above 0, or leave loss_estimator out")
        return self


class Mix(Spec):
    """Text whose likelihood every policy step keeps up (PPO-ptx, Ouyang et al. 2022): a guard against forgetting what no reward asks about."""

    data: Annotated[Sources, Wants("text")]
    """Text, usually that of pretraining."""
    coefficient: float = Field(1.0, gt=0)
    """Weight of the text's mean -log p per token beside PPO's loss per token."""
    documents: int = Field(32, gt=0)
    """Documents seen by each policy step, over all processes."""


class PolicyOptimizer(Optimizer):
    learning_rate: float = Field(1e-6, gt=0, lt=1)


class CriticOptimizer(Optimizer):
    learning_rate: float = Field(1e-5, gt=0, lt=1)


class PPO(Rewarded):
    """Improve a policy against rewards by proximal policy optimization (Schulman et al. 2017), with a critic and a KL penalty."""

    makes: ClassVar[str] = "causal-lm"
    is_shared: ClassVar[bool] = True
    kind: Literal["ppo"] = "ppo"
    model: ModelRef
    """Policy to start from, and the frozen reference."""
    rewards: tuple[RewardPart, ...] = Field(min_length=1)
    """Weighted sum of reward models, rules and servers' scores, given at the last token of an answer."""
    critic: Annotated[str | None, Takes("reward-model", "causal-lm")] = None
    """Model the critic starts from; the first reward model (its score head becomes the value head), or else the policy, if left out."""
    players: Literal["separate", "shared-trunk", "shared-base"] = "separate"
    """How players share weights: a critic of its own weights; a value head on the policy's trunk, to which its loss gives no gradient (least memory and time, weakest critic); or, with `adapter`, policy and critic as adapters on one base."""
    prompts: Annotated[Sources, Wants("prompt")]
    """Prompts to answer; a `reference` column is handed to rules."""
    validation: Annotated[tuple[Source, ...], Wants("prompt")] = ()
    """Held-out prompts; a share of `prompts`, chosen by content hash, if left out."""
    held_out: float = Field(0.05, gt=0, lt=0.5)
    """Share of prompts held out where `validation` is left out."""
    steps: int = Field(gt=0)
    """Rollouts, each followed by `epochs` passes of updates."""
    batch: int = Field(128, gt=1)
    """Answers per rollout, over all processes."""
    minibatches: int = Field(4, gt=0)
    """Optimizer steps per pass over a rollout: more learn faster from the same answers, and drift further from the policy that drew them."""
    epochs: int = Field(1, gt=0)
    """Passes over each rollout; more than one leans on the ratio clip."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What draws the answers: the policy's own forward pass; or vLLM on the same GPU (extra `vllm`), far faster there, with weights handed over before every rollout and `importance_cap` 2 for its other arithmetic."""
    engine_memory: Annotated[float, Context()] = Field(0.3, gt=0, lt=1)
    """Share of the GPU's memory that vLLM may take."""
    sampling: Sampling = Sampling()
    """How answers are drawn, of rollouts and of held-out prompts."""
    kl: KL = KL()
    """What keeps the policy near the reference."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token; 1 for answers, which end soon."""
    lam: float = Field(0.95, ge=0, le=1)
    """GAE's bias-variance trade (Schulman et al. 2016): 1 uses returns, smaller values trust the critic more."""
    critic_lam: float | None = Field(None, ge=0, le=1)
    """Lambda of the returns that the critic learns from; 1 gives it unbiased targets for long answers (VC-PPO, Yuan et al. 2025). `lam` if left out."""
    clip: float = Field(0.2, gt=0, lt=1)
    """Policy ratios below 1 - clip and above 1 + clip get no gradient in the direction that they moved."""
    clip_high: float | None = Field(None, gt=0)
    """Upper clip where it differs; a larger one (0.28) lets unlikely tokens grow and keeps entropy up (DAPO, Yu et al. 2025)."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound on the loss of a bad token, as a multiple of its advantage (Ye et al. 2020; 3 is usual); off if left out."""
    value_clip: float | None = Field(0.2, gt=0)
    """Values may move by this much from the rollout's in one update; no limit if null. Meant for rewards of deviation 1."""
    running_normalisation: bool = False
    """Bring the sum of rewards to mean 0 and deviation 1 of all rollouts so far (Zheng et al. 2023), before penalties; for rewards of unknown scale."""
    whiten: bool = True
    """Advantages are brought to mean 0 and deviation 1 over the whole rollout of all processes: the step no longer depends on the reward's scale."""
    aggregation: Literal["token", "sequence"] = "token"
    """A loss averages over all tokens of an optimizer step (long answers weigh more), or over answers (each weighs the same)."""
    entropy: float = Field(0.0, ge=0)
    """Coefficient of an entropy bonus in the loss; keeps exploration up, and biases the optimum towards uniform tokens."""
    missing_eos_penalty: float = Field(1.0, ge=0)
    """Subtracted from the reward of an answer that did not end by itself (Huang et al. 2024)."""
    overlong: int | None = Field(None, gt=0)
    """The last so many tokens before `max_new_tokens` cost reward in a line down to -1 (DAPO, Yu et al. 2025); off if left out."""
    stop_kl: float | None = Field(None, gt=0)
    """Ends the policy's update of a rollout once it moved by more than this KL per token from the policy that drew it; off if left out."""
    importance_cap: float | None = Field(None, ge=1)
    """Weigh each token by the trainer's over the sampler's probability, at most by this (truncated importance sampling; Yao et al. 2025; 2 is usual): corrects for an engine of other arithmetic. Off if left out; 2 with `engine: vllm`."""
    refresh_reference: int | None = Field(None, gt=0)
    """Rollouts after which the policy of then becomes the reference (ProRL, Liu et al. 2025): it may go further, and KL is counted from there; never if left out."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Leave the exponential moving average of the policy's weights, with this decay per rollout (0.95 averages about 20), and evaluate it: steadier than the last weights; off if left out."""
    keep: Literal["last", "best"] = "last"
    """Which policy is left: the last one, or that of the evaluation with the highest held-out reward (the start counts) among those within `kl_budget`."""
    kl_budget: float | None = Field(None, gt=0)
    """Mean KL to the reference per held-out answer, in nats, that the best policy may have; reward that costs more is mistrusted (Gao et al. 2023). No limit if left out."""
    mix: Mix | None = None
    """Learn text beside the rewards; off if left out."""
    critic_warmup: int = Field(10, ge=0)
    """Rollouts in which only the critic learns, so that the policy does not follow a critic that knows nothing yet: `explained_variance` should have risen well above 0 at their end; more rollouts and more `minibatches` raise it."""
    policy_optimizer: PolicyOptimizer = PolicyOptimizer()
    """How the policy learns: AdamW with a schedule over the updates after the critic's warm-up."""
    critic_optimizer: CriticOptimizer = CriticOptimizer()
    """How the critic learns: an optimizer and a clip of its own, so that its loss never scales the policy's step."""
    adapter: Adapter | None = None
    """Train an adapter of the policy; the reference is then the policy with the adapter off, and needs no second copy."""
    evaluate_every: int = Field(20, gt=0)
    """Rollouts between evaluations on held-out prompts."""
    evaluation_prompts: int = Field(128, gt=0)
    """Held-out prompts answered in an evaluation, the first ones."""
    guards: Literal["warn", "stop"] = "warn"
    """What follows a sign of trouble (negative KL, KL explosion, entropy collapse, equal rewards, rewards at their clip, answers that never end...): a note, or the end."""
    samples: int = Field(8, ge=0)
    """Held-out prompts, always the same, whose answers every evaluation writes to `samples.jsonl`."""

    def measures(self) -> tuple[str, ...]:
        named = zip(names_of(self.rewards), self.rewards, strict=True)
        # A rule may give several numbers by name, and an ensemble tells how far its models lie apart.
        parts = [
            f"reward_{title}{more}" for title, part in named for more in ("", *["_*"] * bool(part.rule), *["_spread"] * bool(part.models))
        ]
        held_out = [f"held_out_{name}" for name in (*ANSWERED, "reward_before", *parts)]
        return (*ANSWERED, *ROLLED_OUT, *parts, *held_out, *TRAINED)

    def unmeasured(self, metric: str, reported: Collection[str]) -> str | None:
        if metric == "mix_loss" and self.mix is None:
            return "the stage has no `mix`"
        if metric == "importance_capped" and self.cap is None:
            return "the stage has no `importance_cap`"
        if metric.endswith("_loss_scale"):
            return "losses are scaled in fp16 alone (hardware.precision)"
        if metric not in UPDATED:
            return None
        if any(name.endswith("_loss_scale") for name in reported):
            return (
                "no update of the last rollouts was taken: in fp16 one whose gradients overflow is left out and the loss scale halved; set "
                "hardware.precision to bf16 or fp32 and make the stage again (--redo), or give it more `steps`, in which the scale is found"
            )
        return "no update of the last rollouts was taken: divergence.json in the stage's folder says which were left out"

    def situation(self, carried: Mapping[str, Carried], *, checkpointing: bool) -> Situation | None:
        found = super().situation(carried, checkpointing=checkpointing)
        judges = [f"rewards.{n}.{part.takes[0][0]}" for n, part in enumerate(self.rewards) if part.takes and part.weight]
        field = "critic" if self.critic is not None else judges[0] if judges else None
        return replace(found, critic=carried.get(field or "", Carried())) if found else None

    def brief(self, steps: int) -> Self:
        # As many held-out prompts as a rollout has answers at most: each process needs one of them.
        asked = min(self.evaluation_prompts, self.batch)
        return self.model_copy(update={"steps": steps, "critic_warmup": 0, "evaluation_prompts": asked, "samples": 0})

    def workload(self) -> Workload:
        """Policy, reference, critic and reward models: which of them have weights of their own, and how often each reads or learns from an answer."""
        learned = float(self.epochs)
        moved = learned * (self.steps - self.critic_warmup) / self.steps
        policy = Player("policy", "model", learns=True, adapter=self.adapter, reads=1.0, updates=moved, writes=True)
        reference = Player("reference", "model", on="policy" if self.adapter else None, reads=1.0)
        judges = self.judges(on="policy" if self.players == "shared-base" else None)
        return Workload(
            (policy, reference, self._critic(judges, learned), *judges),
            "answers",
            batch=self.batch,
            minibatches=self.minibatches,
            asked=self.evaluation_prompts,
            steps=self.steps,
            answer=self.sampling.max_new_tokens,
            engine_memory=self.engine_memory if self.engine == "vllm" else None,
            copies=(self.ema is not None) + (self.keep == "best"),
        )

    def _critic(self, judges: tuple[Player, ...], learned: float) -> Player:
        if self.players == "shared-trunk":
            return Player("critic", "model", "value", learns=True, on="policy", updates=learned, trunk=True)
        if self.players == "shared-base":
            return Player("critic", "model", "value", learns=True, adapter=self.adapter, on="policy", reads=1.0, updates=learned)
        start = "critic" if self.critic else judges[0].field if judges else "model"
        return Player("critic", start, "value", learns=True, reads=1.0, updates=learned)

    def too_long(self, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        return self.sampling.too_long(self.read_whole(contexts))

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        return self.sampling.room(self.read_whole(contexts)) if field in ("prompts", "validation") else None

    def divided(self) -> str | None:
        return None if self.validation else "prompts"

    def impossible(self, hardware: Hardware) -> tuple[str, str] | None:
        if self.players == "separate" or hardware.zero in (0, "auto"):
            return None
        return (
            "players",
            f"found {self.players}, and under hardware.zero: {hardware.zero} players that share weights would share an engine, which moves one by "
            "the other's gradients: set players: separate, or hardware.zero: 0",
        )

    @property
    def cap(self) -> float | None:
        """`importance_cap`, or its default for the engine."""
        return 2.0 if self.importance_cap is None and self.engine == "vllm" else self.importance_cap

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.batch % self.minibatches:
            raise ValueError(f"{self.named('batch')} is not a multiple of {self.named('minibatches')}; change one of them")
        if self.critic_warmup >= self.steps:
            raise ValueError(
                f"{self.named('critic_warmup')} leaves none of {self.named('steps')} for the policy; lower critic_warmup or raise steps"
            )
        if self.kl.target is not None and 5 * self.kl.horizon <= self.batch:
            raise ValueError(
                f"kl.{self.kl.named('horizon')} is so short that one rollout of {self.named('batch')} could turn the coefficient's sign; "
                f"wanted more than {self.batch // 5}"
            )
        if self.overlong is not None and self.overlong > self.sampling.max_new_tokens:
            raise ValueError(
                f"overlong {self.overlong} is more than sampling.{self.sampling.named('max_new_tokens')}; lower it, or raise that"
            )
        if self.refresh_reference is not None and self.adapter is not None:
            raise ValueError(
                "refresh_reference needs a reference of its own, and with an adapter it is the model without it; leave out one of them"
            )
        if self.engine == "vllm" and self.adapter is not None and (self.adapter.kind != "lora" or self.adapter.dora):
            raise ValueError(
                "engine: vllm takes whole weights, which only plain LoRA gives; use kind: lora without dora, or engine: transformers"
            )
        if self.players != "separate" and self.critic is not None:
            raise ValueError(f"critic: with players: {self.players} the critic has no weights to start from; leave it out")
        if self.players == "shared-base" and (self.adapter is None or self.adapter.family == "prompt" or self.adapter.moves_base):
            raise ValueError(
                "players: shared-base puts policy and critic as adapters on one base: it needs an `adapter` of a LoRA kind or ia3 that leaves the base as it is"
            )
        if self.kl_budget is not None and self.keep == "last":
            raise ValueError("kl_budget limits which evaluation is the best: it needs keep: best")
        if self.kl_budget is not None and self.refresh_reference is not None:
            raise ValueError("kl_budget counts from the start, and refresh_reference moves what KL is counted from; leave out one of them")
        return self
