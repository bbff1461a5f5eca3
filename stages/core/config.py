"""Settings that stages share. Torch-free."""

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from data.config import Context, Source, Spec, Takes
from data.extent import Extent
from stages.adapters.combinations import Carried, Situation
from stages.contract import Hardware
from stages.core.workload import Player, Workload

ModelRef = Annotated[str, Takes("causal-lm")]
RewardRef = Annotated[str, Takes("reward-model")]
TokenizerRef = Annotated[str, Takes("tokenizer", "causal-lm")]


def _known_rule(name: str) -> str:
    from data.errors import DataError
    from stages.core.rules import check_rule

    try:
        check_rule(name)
    except DataError as error:
        raise ValueError(str(error)) from error
    return name


RuleName = Annotated[str, AfterValidator(_known_rule)]
"""`exact`, `regex:PATTERN`, `json`, `number`, `length:WORDS`, `language:CODE`, `repetition[:WORDS]`, `world[:PART]`, or `file.py:function`."""


def check_new_tokens_learn(tokenizer: str | None, adapter: Spec | None) -> None:
    """Raises ValueError where tokens that a tokenizer adds to a model would keep embeddings that mean nothing, because an adapter leaves them frozen."""
    if tokenizer is not None and adapter is not None:
        raise ValueError(
            "an adapter would leave the new tokens of `tokenizer` untrained: leave `adapter` out, or add the tokens in a stage before"
        )


TRAINED = ("start_distance", "skipped_batches", "roll_backs")
"""Numbers that every stage may report that trains a model."""


class Bound(Spec):
    """Limits that a metric must keep."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no value is at least {self.min:g} and at most {self.max:g}")
        return self


class StageConfig(Spec):
    """Base of every stage's settings: *what* is computed. `version` rises when the code changes the meaning of the result."""

    version: ClassVar[int] = 1
    makes: ClassVar[str]
    """Kind of the artifact that the stage leaves."""
    is_shared: ClassVar[bool] = False
    """Whether the recipe's processes share the stage's work; one process does all of any other stage."""
    refuses_long: ClassVar[bool] = False
    """Whether a single record that does not fit ends the stage, and is not left out and counted."""
    require: Annotated[dict[str, Bound | float], Context()] = {}
    """Gate: metrics of this stage that later stages need, as a minimum or `{min, max}`; the chain stops where one is missed."""

    def context_left(self, contexts: Mapping[str, int | None]) -> int | None:
        """Longest sequence of the model that the stage leaves; None if it cannot be told. `contexts` has those of what it takes, by field."""
        return contexts.get("model")

    def too_long(self, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        """A field that asks for more tokens than the models of `contexts` take, and what is wrong with it."""
        longest, context = getattr(self, "max_tokens", None), contexts.get("model")
        if longest is None or context is None or longest <= context:
            return None
        return "max_tokens", f"found {longest}, wanted at most the context of the model, {context} tokens; lower it, or leave it out"

    def room(self, field: str, contexts: Mapping[str, int | None]) -> int | None:
        """Most tokens that a record of a data field may have; None where there is no limit, or none that can be told."""
        return None

    def lacking(self, field: str, extent: Extent) -> str | None:
        """What the records of a data field lack although the settings ask for it; None if nothing is known to be missing."""
        return None

    def divided(self) -> str | None:
        """Field of the data of which a share is held out; None if nothing is."""
        divides = "held_out" in type(self).model_fields and not getattr(self, "validation", ())
        return "data" if divides else None

    def few_steps(self, records: float, characters: float, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        """A field that leaves so few optimizer steps that hardly anything is learned, and what is wrong with it.

        `records` and `characters` are those of the training data; infinite where they are not known.
        """
        return None

    def measures(self) -> tuple[str, ...]:
        """Names of all numbers that the stage may report, which `require` can ask for; `*` stands for any rest. Empty where nobody has said."""
        return ()

    def unmeasured(self, metric: str, reported: Collection[str]) -> str | None:
        """Why a number that the stage may report is not among those of its result, and what to do about it; None where nobody can say."""
        return None

    def leaves(self) -> tuple[str, ...]:
        """Files and folders of data in the stage's artifact, which other stages may read. Empty where nobody has said."""
        return ()

    def impossible(self, hardware: Hardware) -> tuple[str, str] | None:
        """A field that would be computed wrongly with this hardware, and what to do about it."""
        return None

    def vocabulary(self, given: int | None) -> int | None:
        """Tokens of the tokenizer that the stage leaves, where it leaves one; `given` has those of the one that it takes."""
        return None

    def brief(self, steps: int) -> Self | None:
        """The same stage cut to about so many optimizer steps (rollouts), for measuring what one takes; None if it takes none."""
        return None

    def workload(self) -> Workload | None:
        """What the stage computes with models, for a plan of memory and time; None if it holds none."""
        return None

    def situation(self, carried: Mapping[str, Carried], *, checkpointing: bool) -> Situation | None:
        """What the stage does with adapters; None if it trains no model. `carried` has what the models that it takes bring along, by field."""
        if "adapter" not in type(self).model_fields:
            return None
        task, own, model = (getattr(self, name, None) for name in ("kind", "adapter", "model"))
        before = carried.get("model", Carried())
        return Situation(task, own, before, from_scratch=isinstance(model, Llama), checkpointing=checkpointing)  # type: ignore[arg-type]


class Optimizer(Spec):
    """AdamW with decoupled weight decay on matrices only (no decay on norms, biases and embeddings)."""

    learning_rate: float = Field(gt=0, lt=1)
    """Peak learning rate."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """After warm-up: cosine to `final`, warm-up-stable-decay (the last fifth decays), linear to `final`, or constant."""
    final: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (Loshchilov & Hutter 2019)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""


class Llama(Spec):
    """Shape of a LLaMA-style model."""

    hidden_size: int = Field(256, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    kv_heads: int | None = Field(None, gt=0)
    """Key-value heads (grouped-query attention); as many as `heads` if left out."""
    mlp_size: int | None = Field(None, gt=0)
    """Width of the gated MLP; 8/3 of `hidden_size`, rounded up to a multiple of 64, if left out."""
    context: int = Field(512, gt=1)
    """Longest sequence in tokens."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary position frequencies."""
    tied_embeddings: bool = True
    """One matrix for input embeddings and output head."""
    initializer_range: float | None = Field(None, gt=0)
    """Standard deviation of initial weights; 1/sqrt(hidden_size) below width 1024, else 0.02, if left out (0.02 stalls at small width)."""

    @property
    def mlp_width(self) -> int:
        """`mlp_size`, or its default."""
        return self.mlp_size or -(-8 * self.hidden_size // (3 * 64)) * 64

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"{self.named('hidden_size')} is not a multiple of {self.named('heads')}; change one of them")
        if self.hidden_size // self.heads % 2:
            raise ValueError(
                f"{self.named('hidden_size')} over {self.named('heads')} is {self.hidden_size // self.heads}, and must be even for rotary positions"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"{self.named('heads')} is not a multiple of kv_heads {self.kv_heads}; change one of them")
        return self


class Sampling(Spec):
    """How answers are drawn."""

    temperature: float = Field(1.0, gt=0)
    """Divides the logits before sampling; the trainer's log-probabilities are computed at the same temperature."""
    max_new_tokens: int = Field(256, gt=0)
    """An answer that has not ended by then is cut, and counts as unfinished."""

    def too_long(self, contexts: Mapping[str, int | None]) -> tuple[str, str] | None:
        """As in a stage's settings, for the field `sampling`."""
        room = self.room(contexts)
        if room is None or room > 0:
            return None
        context = room + self.max_new_tokens
        return (
            "sampling.max_new_tokens",
            f"found {self.stated('max_new_tokens')}, which leaves no room for a prompt in a context of {context} tokens; set it lower",
        )

    def room(self, contexts: Mapping[str, int | None]) -> int | None:
        """Tokens that the shortest of these contexts leaves for a prompt; None if none of them can be told."""
        known = [context for context in contexts.values() if context is not None]
        return min(known) - self.max_new_tokens if known else None


def references_told(rules: Sequence[str], extent: Extent) -> str | None:
    """That prompts lack the reference by which one of these rules grades; None if each has one."""
    from stages.core.rules import needs_reference

    asking = next((rule for rule in rules if needs_reference(rule)), None)
    without = extent.records - extent.references
    if asking is None or not without:
        return None
    return f"{without:,} of {extent.records:,} prompts have no reference, by which rule '{asking}' grades; wanted a column reference (docs/data-formats.md)"


LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Remote(Spec):
    """A reward that a server gives. Prompts, answers and references are sent to it, so its host must stand in the stage's `remote_hosts`.

    Request: POST of JSON with the lists `prompts` (messages), `answers`, `finished` and `references`. Response: JSON with the list `scores`.
    """

    url: str
    """Address, https; http only on this machine. Redirects are not followed."""
    batch: int = Field(64, gt=0)
    """Answers per request."""
    timeout_seconds: float = Field(30.0, gt=0)
    """How long one request may take."""
    retries: int = Field(3, ge=0)
    """Further tries after a time-out, a broken connection, or a response of 429 or 5xx; the first waits a second, each next one twice as long."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @model_validator(mode="after")
    def _safe(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError(f"url: found '{self.url}', wanted https://host/path")
        if parts.username or parts.password:
            raise ValueError("url: a recipe is no place for a user name or a password")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"url: answers would travel to {parts.hostname} unencrypted; wanted https")
        return self


class RewardPart(Spec):
    """One summand of a reward: a reward model, an ensemble of them, a rule, or a server's judgement."""

    model: Annotated[str | None, Takes("reward-model")] = None
    """A reward model."""
    models: tuple[RewardRef, ...] = ()
    """Several reward models, trained with other seeds or on other data, as one: where they disagree none is to be trusted (Coste et al. 2024)."""
    combine: Literal["mean", "worst", "uncertainty"] = "mean"
    """How `models` become one number: their mean; the lowest of them, which a policy cannot please by fooling one; or the mean less `uncertainty` times their variance."""
    uncertainty: float = Field(0.5, ge=0)
    """Coefficient of the variance for `combine: uncertainty` (Coste et al. 2024 use 0.1 to 1; scores have deviation 1)."""
    rule: RuleName | None = None
    """`exact`, `regex:PATTERN`, `json`, `number`, `length:WORDS`, `language:CODE`, `repetition[:WORDS]`, `world[:PART]`, or `file.py:function`."""
    remote: Remote | None = None
    """A server that scores answers."""
    weight: float = 1.0
    """Factor of this part; 0 only shows it (a ground truth beside the reward that is trained on)."""
    normalise: bool = True
    """Subtract the reward model's stored mean and divide by its stored standard deviation; rules stay as they are."""
    clip: float | None = Field(10.0, gt=0)
    """Largest absolute value of this part before its weight."""

    @model_validator(mode="after")
    def _one_of_four(self) -> Self:
        given = [name for name in ("model", "models", "rule", "remote") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"wanted one of `model`, `models`, `rule` and `remote`, found {' and '.join(given) or 'none'}")
        if len(self.models) == 1:
            raise ValueError("one model is no ensemble; wanted `model`, or at least two in `models`")
        if self.combine != "mean" and not self.models:
            raise ValueError(f"combine: {self.combine} is about several `models`, and there are none")
        if self.combine != "uncertainty" and self.uncertainty != type(self).model_fields["uncertainty"].default:
            raise ValueError(f"uncertainty {self.uncertainty:g} is about combine: uncertainty; set that, or leave uncertainty out")
        return self

    @property
    def takes(self) -> tuple[tuple[str, str], ...]:
        """The reward models of this part: field, relative to the part, and reference."""
        return (("model", self.model),) if self.model else tuple((f"models.{n}", name) for n, name in enumerate(self.models))

    @property
    def title(self) -> str:
        """`judge`, `ensemble`, `remote`, `regex`, the function's name: what the part is called in metrics."""
        if self.rule is not None:
            from stages.core.rules import plain_name

            return plain_name(self.rule)
        if self.model is not None:
            return PurePath(self.model.removeprefix("hub:")).name
        return "ensemble" if self.models else "remote"


OF_THE_WHOLE = ("std", "square", "clipped", "before")
"""What metrics tell of the sum of rewards as `reward_...`: no part may hide it."""


def free_name(title: str, number: int, taken: Collection[str]) -> str:
    """That title, or with the first free number from `number` on behind it."""
    return title if title not in taken else next(name for n in count(number) if (name := f"{title}_{n}") not in taken)


def names_of(parts: Sequence[RewardPart]) -> list[str]:
    """What each part of a reward is called in metrics; one whose title is taken has its number behind it."""
    names: list[str] = []
    for number, part in enumerate(parts):
        names.append(free_name(part.title, number, (*OF_THE_WHOLE, *names)))
    return names


class Rewarded(StageConfig):
    """Base of the stages that score answers."""

    remote_hosts: Annotated[tuple[str, ...], Context()] = ()
    """Hosts that answers may be sent to by `rewards` with a `remote`; none if left out."""

    def lacking(self, field: str, extent: Extent) -> str | None:
        rules = [part.rule for part in getattr(self, "rewards", ()) if part.rule]
        return references_told(rules, extent) if field in ("prompts", "validation") else None

    @staticmethod
    def read_whole(contexts: Mapping[str, int | None]) -> dict[str, int | None]:
        """Contexts of the models that read a prompt with its answer: the one that answers, and those that score."""
        return {name: context for name, context in contexts.items() if name == "model" or name.startswith("rewards.")}

    def judges(self, on: str | None = None) -> tuple[Player, ...]:
        """The reward models that score answers, each reading every token once; on the weights of player `on` where they can be."""
        parts: tuple[RewardPart, ...] = getattr(self, "rewards", ())
        fields = [(f"rewards.{number}.{inner}", name) for number, part in enumerate(parts) for inner, name in part.takes]
        return tuple(Player(f"reward {name.rpartition('/')[2]}", field, "score", on=on, reads=1.0) for field, name in fields)

    @model_validator(mode="after")
    def _hosts_are_allowed(self) -> Self:
        parts: tuple[RewardPart, ...] = getattr(self, "rewards", ())
        hosts = {part.remote.host for part in parts if part.remote}
        for host in sorted(hosts - set(self.remote_hosts)):
            raise ValueError(f"answers would be sent to {host}, which `remote_hosts` does not name; add it there if that is meant")
        return self


FEW_STEPS = 10
"""Optimizer steps below which a stage hardly learns anything, and its learning-rate schedule has no shape."""
CHARACTERS_PER_TOKEN = 4
"""About as in English text, for what is reckoned without a tokenizer."""


def steps_told(steps: float, of: str, remedy: str, *, about: bool = False) -> str | None:
    """That a stage takes few steps; None if it takes enough. `of` says from what they follow."""
    if steps >= FEW_STEPS:
        return None
    whole = max(1, round(steps))
    count = f"{'about ' if about else ''}{whole} optimizer step{'' if whole == 1 else 's'} in all"
    return f"{count} from {of}: in fewer than {FEW_STEPS} hardly anything is learned; {remedy}"


Sources = Annotated[tuple[Source, ...], Field(min_length=1)]
Temperature = Annotated[float, Field(ge=1, le=1_000)]
"""Of a mixture; 1 keeps the sources' shares as they are."""


def some_of(sources: tuple[Source, ...], rows: int = 2_000) -> tuple[Source, ...]:
    """The first rows of each source: enough to measure a few steps."""
    return tuple(source.model_copy(update={"limit": min(rows, source.limit or rows)}) for source in sources)
