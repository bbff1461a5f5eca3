"""Which adapters, policies and stages go together: the one table that the plan refuses by and that `docs/adapters.md` is printed from. Torch-free.

A rule says when it applies, why that cannot be, and the way out. The first rule that applies decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.adapters.config import AdapterSpec, HandOver, LowRank, QLora

Task = Literal["pretrain", "sft", "reward", "ppo"]


@dataclass(frozen=True)
class Carried:
    """What a model brings along: adapters that are not merged into it, oldest first, and how the last one wants to be taken."""

    adapters: tuple[AdapterSpec, ...] = ()

    @property
    def last(self) -> AdapterSpec | None:
        return self.adapters[-1] if self.adapters else None

    @property
    def policy(self) -> HandOver | None:
        return self.last.hand_over if self.last else None

    def then(self, own: AdapterSpec | None) -> "Carried":
        """What the stage that takes this model and trains `own` leaves."""
        if own is None or own.hand_over == "merge":
            return Carried()
        kept = self.adapters[:-1] if self.policy == "continue" else self.adapters
        return Carried((*kept, own))


@dataclass(frozen=True)
class Situation:
    """A training stage: what it starts from, what it trains."""

    task: Task
    own: AdapterSpec | None = None
    carried: Carried = Carried()
    """Of the model that it starts from."""
    from_scratch: bool = False
    """Whether its base is a new model, whose weights no folder holds."""
    checkpointing: bool = False
    """Whether `hardware.gradient_checkpointing` is on."""
    critic: Carried = Carried()
    """PPO: of the model that the critic starts from."""


@dataclass(frozen=True)
class Rule:
    """A combination that is refused."""

    when: str
    reason: str
    way_out: str
    applies: Callable[[Situation], bool]
    field: str = "adapter"
    """Of the stage's settings, whose line the refusal names."""

    def __str__(self) -> str:
        return f"{self.reason}; {self.way_out}"


def _prompt(adapter: AdapterSpec | None) -> bool:
    return adapter is not None and adapter.family == "prompt"


def _saved(adapter: AdapterSpec | None) -> tuple[str, ...]:
    return adapter.modules_to_save if isinstance(adapter, LowRank) else ()


def _policy(situation: Situation) -> str | None:
    return situation.own.hand_over if situation.own else None


def _stacks(situation: Situation) -> bool:
    """Whether a new adapter would be trained on earlier ones that stay."""
    return situation.carried.policy == "stack" and situation.own is not None


def _continues(situation: Situation) -> bool:
    return situation.carried.policy == "continue" and situation.own is not None


def _unlike(situation: Situation) -> str | None:
    """The first setting in which an adapter differs from the one that it is to continue."""
    if not _continues(situation) or situation.own is None or situation.carried.last is None:
        return None
    own, earlier = situation.own.shape(), situation.carried.last.shape()
    return next((name for name in ("kind", *earlier) if own.get(name) != earlier.get(name)), None)


RULES: tuple[Rule, ...] = (
    Rule(
        "a prompt kind in pretraining",
        "virtual tokens steer what a model knows and cannot hold what pretraining teaches",
        "use a LoRA kind, or train all weights",
        lambda s: _prompt(s.own) and s.task == "pretrain",
    ),
    Rule(
        "a prompt kind (prefix, P-tuning, prompt) with `merge`",
        "virtual tokens are no weights, so that nothing can be merged into the base",
        "say hand_over: continue, or use a LoRA kind",
        lambda s: _prompt(s.own) and _policy(s) == "merge",
        "adapter.hand_over",
    ),
    Rule(
        "a prompt kind with `stack`",
        "a model reads one prompt at a time, and peft puts no other kind beside one",
        "say hand_over: continue, or use a LoRA kind",
        lambda s: _prompt(s.own) and _policy(s) == "stack",
        "adapter.hand_over",
    ),
    Rule(
        "a prompt kind with `hardware.gradient_checkpointing`",
        "virtual tokens lie in the key-value cache, which a recomputed layer does not get",
        "set hardware.gradient_checkpointing: false, or use a LoRA kind",
        lambda s: _prompt(s.own) and s.checkpointing,
    ),
    Rule(
        "QLoRA in pretraining from scratch",
        "a new model has no trained weights to hold in four bits",
        "train all weights",
        lambda s: isinstance(s.own, QLora) and s.from_scratch,
    ),
    Rule(
        "QLoRA with `merge` and without `dequantise`",
        "the adapter was trained on a base of four bits, and merged into the full one it would be another model",
        "say dequantise: true to hand on the base as its four bits read, or hand_over: stack",
        lambda s: isinstance(s.own, QLora) and _policy(s) == "merge" and not s.own.dequantise,
        "adapter.hand_over",
    ),
    Rule(
        "`init: pissa` or `olora` with `stack` or `continue`",
        "this start takes its part out of the base's weights, so that the adapter alone would be loaded onto another base",
        "say hand_over: merge, or init: zero",
        lambda s: s.own is not None and s.own.moves_base and _policy(s) != "merge",
        "adapter.init",
    ),
    Rule(
        "`init: pissa` or `olora` in PPO",
        "switched off it leaves a base that lacks what the adapter took out, which is no reference",
        "say init: zero",
        lambda s: s.own is not None and s.own.moves_base and s.task == "ppo",
        "adapter.init",
    ),
    Rule(
        "pretraining from scratch with `stack` or `continue`",
        "the adapter's base would be random weights that no folder holds",
        "say hand_over: merge",
        lambda s: s.from_scratch and s.own is not None and _policy(s) != "merge",
        "adapter.hand_over",
    ),
    Rule(
        "all weights after `stack` or `continue`",
        "it trains all weights, and the adapter of the model it starts from is not merged into them",
        "say hand_over: merge there, or give this stage an adapter",
        lambda s: s.own is None and s.carried.last is not None,
        "model",
    ),
    Rule(
        "`continue` with an adapter of another shape",
        "an adapter that continues another one must have its kind and shape",
        "make them the same, or say hand_over: merge or stack there",
        lambda s: _unlike(s) is not None,
    ),
    Rule(
        "`continue` from text to scores with `modules_to_save`",
        "a reward model lacks the language model's layers that the adapter holds as a whole",
        "say hand_over: merge there",
        lambda s: _continues(s) and s.task == "reward" and bool(_saved(s.carried.last)),
    ),
    Rule(
        "a prompt kind stacked on another adapter",
        "peft puts no other kind beside a prompt",
        "say hand_over: merge there",
        lambda s: _stacks(s) and _prompt(s.own),
    ),
    Rule(
        "different families stacked (LoRA, QLoRA, IA3)",
        "peft keeps one family of adapters in a model, on one form of its base",
        "say hand_over: merge there",
        lambda s: _stacks(s) and any(type(adapter) is not type(s.own) for adapter in s.carried.adapters),
    ),
    Rule(
        "a stack on `modules_to_save`",
        "a layer that an earlier adapter holds as a whole can be active once only",
        "say hand_over: merge there",
        lambda s: _stacks(s) and any(map(_saved, s.carried.adapters)),
    ),
    Rule(
        "PPO's critic from a reward model with a prompt",
        "a critic trains all its weights, and a prompt cannot be merged into them",
        "name another model as critic",
        lambda s: s.task == "ppo" and any(map(_prompt, s.critic.adapters)),
        "critic",
    ),
)


def refusal(situation: Situation) -> Rule | None:
    """The first rule against a stage, or None if it can be done."""
    return next((rule for rule in RULES if rule.applies(situation)), None)


def complaint(situation: Situation, stages: Sequence[str] = ()) -> tuple[str, str] | None:
    """The field that a refused stage is to be changed in, and the sentence; `stages` may hold the name of the stage that it starts from."""
    rule = refusal(situation)
    if rule is None:
        return None
    label = situation.own.label if situation.own else "no adapter"
    before = f" after {situation.carried.last.label} with hand_over: {situation.carried.policy}" if situation.carried.last else ""
    where = f" of '{stages[0]}'" if stages and before else ""
    unlike = _unlike(situation)
    differs = f" ({unlike} differs)" if unlike and "shape" in rule.reason else ""
    return rule.field, f"{label}{before}{where} is refused: {rule.reason}{differs}; {rule.way_out}"
