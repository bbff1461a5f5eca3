"""What the standard metric names mean to a reader: label, unit, group, scale and the direction that is better."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Scale = Literal["linear", "log"]
Better = Literal["up", "down", ""]

GROUPS = ("Learning", "Reward", "Policy", "Optimizer", "Pace and memory")
"""Order in which a stage's charts stand on the page."""


@dataclass(frozen=True)
class Meaning:
    """How one metric is told."""

    label: str
    group: str = "Learning"
    unit: str = ""
    text: str = ""
    """One sentence for people who do not know the name."""
    scale: Scale = "linear"
    better: Better = ""


KNOWN: dict[str, Meaning] = {
    "loss": Meaning("Loss", unit="nats", text="What the optimizer minimises, per token (per pair for a reward model).", better="down"),
    "perplexity": Meaning("Perplexity", text="exp of the mean loss per token.", scale="log", better="down"),
    "bits_per_byte": Meaning("Bits per byte", unit="bit/B", text="Loss without regard to the tokenizer.", better="down"),
    "accuracy": Meaning("Accuracy", unit="%", text="Share that is right.", better="up"),
    "margin": Meaning("Reward margin", text="Reward of the chosen answer minus the rejected one's.", better="up"),
    "mask_share": Meaning("Learned share", unit="%", text="Share of the tokens that the loss is taken on."),
    "reward": Meaning("Reward", "Reward", text="Mean total reward of an answer.", better="up"),
    "reward_std": Meaning("Reward deviation", "Reward", text="How much rewards differ; at zero there is nothing to learn from."),
    "reward_clipped": Meaning("Rewards at their limit", "Reward", "%", "Share of answers whose reward was cut."),
    "reward_mean": Meaning("Mean reward of held-out answers", "Reward"),
    "score": Meaning("Score", "Reward", text="Mean reward before penalties.", better="up"),
    "truth": Meaning("Truth", "Reward", text="What the reward stands for, measured directly.", better="up"),
    "advantage": Meaning("Advantage", "Reward"),
    "return": Meaning("Return", "Reward"),
    "win_rate": Meaning("Win rate", "Reward", "%", "Share of prompts on which the answer beats the baseline's.", better="up"),
    "oracle_accuracy": Meaning(
        "Truth agrees with the labels", unit="%", text="How often the noisy labels are right: no reward model can be expected to do better."
    ),
    "utility_agreement": Meaning("Agreement with the truth", unit="%", better="up"),
    "length_baseline": Meaning(
        "Accuracy by length", unit="%", text="What choosing by length alone would reach, shorter or longer as training pairs say."
    ),
    "bytes_per_token": Meaning("Bytes per token", text="How much text a token stands for.", better="up"),
    "bigram_perplexity": Meaning(
        "Perplexity of a bigram", text="What counting which token follows which reaches on the same text.", scale="log"
    ),
    "shuffled_prompt_loss": Meaning(
        "Loss behind shuffled prompts",
        unit="nats",
        text="The same answers behind others' questions: no higher if the model does not read them.",
    ),
    "bag_of_words": Meaning("Accuracy of a bag of words", unit="%", text="What the answers' words without order or prompt would reach."),
    "perplexity_floor": Meaning("Perplexity floor", text="The least that any model can reach: the entropy of the text."),
    "kl": Meaning("KL to the reference", "Policy", "nats", "How far the policy has moved from its reference, per answer."),
    "kl_coefficient": Meaning("KL coefficient", "Policy", text="Strength of the KL penalty."),
    "approx_kl": Meaning("KL of an update", "Policy", "nats", "How far one rollout's updates moved the policy."),
    "entropy": Meaning("Entropy", "Policy", "nats", "How undecided the policy is, per token; near zero it no longer explores."),
    "clip_fraction": Meaning("Clip fraction", "Policy", "%", "Share of tokens whose ratio was clipped."),
    "value_clip_fraction": Meaning("Value clip fraction", "Policy", "%", "Share of values that were clipped."),
    "kl_k3": Meaning("KL, k3 estimate", "Policy", "nats", "The same distance by an estimator that is never negative (Schulman 2020)."),
    "kl_k2": Meaning("KL, k2 estimate", "Policy", "nats", "The same distance by half the squared log-ratio."),
    "ratio_min": Meaning("Smallest ratio", "Policy", scale="log"),
    "ratio_max": Meaning("Largest ratio", "Policy", text="Furthest that one token's probability moved in an update.", scale="log"),
    "first_ratio_error": Meaning(
        "Ratio error at the start", "Policy", text="0 up to rounding: before the first step nothing has moved.", scale="log"
    ),
    "sampler_difference": Meaning(
        "Sampler difference", "Policy", "nats", "Largest gap between the sampler's log-probabilities and the trainer's.", scale="log"
    ),
    "sampler_kl": Meaning("KL to the sampler", "Policy", "nats"),
    "update_stopped": Meaning("Updates cut short", "Policy", text="1 where the update's KL limit ended it."),
    "importance_mean": Meaning(
        "Importance weight", "Policy", text="What corrects for a sampler whose arithmetic is not the trainer's; 1 where they agree."
    ),
    "importance_max": Meaning("Largest importance weight", "Policy"),
    "importance_capped": Meaning("Weights at their cap", "Policy", "%"),
    "mix_loss": Meaning("Loss on text mixed in", "Policy", "nats", "What is not to be forgotten while rewards are followed."),
    "value_mean": Meaning("Mean value", "Policy", text="What the critic expects."),
    "advantage_std": Meaning("Advantage deviation", "Policy"),
    "ratio": Meaning("Probability ratio", "Policy", text="New over old probability of the sampled tokens; 1 means unchanged."),
    "policy_loss": Meaning("Policy loss", "Policy", text="The clipped surrogate objective."),
    "value_loss": Meaning("Value loss", "Policy", text="Squared error of the critic.", scale="log", better="down"),
    "explained_variance": Meaning(
        "Explained variance", "Policy", text="1 when the critic foresees returns, 0 when it knows nothing.", better="up"
    ),
    "eos_rate": Meaning("Finished answers", "Policy", "%", "Share of answers that ended by themselves.", better="up"),
    "length": Meaning("Answer length", "Policy", "tokens", "Mean length of an answer."),
    "learning_rate": Meaning("Learning rate", "Optimizer", text="Step size of the optimizer."),
    "grad_norm": Meaning("Gradient norm", "Optimizer", text="Before clipping.", scale="log"),
    "loss_scale": Meaning(
        "Loss scale", "Optimizer", text="What losses are multiplied by in fp16; halved where a gradient overflows.", scale="log"
    ),
    "epoch": Meaning("Epoch", "Optimizer"),
    "tokens": Meaning("Tokens", "Pace and memory"),
    "steps": Meaning("Planned steps", "Pace and memory"),
    "seconds": Meaning("Time", "Pace and memory", "s", "Since the stage began."),
    "step_seconds": Meaning("Time per step", "Pace and memory", "s", better="down"),
    "tokens_per_second": Meaning("Throughput", "Pace and memory", "tokens/s", better="up"),
    "phase_seconds": Meaning("Time per step", "Pace and memory", "s", "Where the time of a step goes."),
    "memory": Meaning("Memory", "Pace and memory", "B"),
}

ALIASES = {
    "lr": "learning_rate", "gradient_norm": "grad_norm", "acc": "accuracy", "reward_margin": "margin", "lengths": "length",
    "completion_length": "length", "answer_length": "length", "finished": "eos_rate", "finished_rate": "eos_rate", "clipfrac": "clip_fraction",
    "clip_share": "clip_fraction", "kl_coef": "kl_coefficient", "approximate_kl": "approx_kl", "coefficient": "kl_coefficient", "max_memory": "memory", "memory_bytes": "memory", "win": "win_rate", "true_reward": "truth",
}  # fmt: skip

ON_HELD_OUT = ("validation_", "held_out_", "heldout_", "eval_", "test_", "evaluation_")


@dataclass(frozen=True)
class Named:
    """A metric name taken apart: `validation_loss` is `loss` on held-out data, `reward/judge` the part `judge` of `reward`."""

    base: str
    held_out: bool = False
    part: str = ""


def parse(name: str) -> Named:
    """Take a metric name apart by the catalogue; an unknown name is its own base."""
    base, held_out = name.strip("/"), False
    for separator in ("/", "."):
        head, _, rest = base.partition(separator)
        if rest and f"{head}_" in ON_HELD_OUT:
            base, held_out = rest, True
    for prefix in ON_HELD_OUT:
        if base.startswith(prefix) and len(base) > len(prefix):
            base, held_out = base.removeprefix(prefix), True
    base = ALIASES.get(base, base)
    if base in KNOWN:
        return Named(base, held_out)
    for known in ("grad_norm", "loss_scale"):
        if base.endswith(f"_{known}"):
            return Named(known, held_out, base.removesuffix(f"_{known}"))
    if base.startswith("seconds_"):
        return Named("phase_seconds", held_out, base.removeprefix("seconds_"))
    head, _, part = base.replace(".", "/").partition("/")
    if part:
        return Named(ALIASES.get(head, head.removesuffix("s") if head.removesuffix("s") in KNOWN else head), held_out, part)
    # `accuracy_people` is accuracy on one group; the longest known name wins, so that `kl_coefficient` is not a part of `kl`.
    for known in sorted(
        ("accuracy", "reward", "score", "truth", "win_rate", "length", "loss", "perplexity", "bits_per_byte"), key=len, reverse=True
    ):
        if base.startswith(f"{known}_"):
            return Named(known, held_out, base.removeprefix(f"{known}_"))
    return Named(base, held_out)


def meaning(name: str) -> Meaning:
    """How a metric is told; an unknown one gets its own name as a label."""
    named = parse(name)
    known = KNOWN.get(named.base) or _guess(named.base)
    label = known.label
    if named.part:
        label = f"{label}: {named.part.replace('_', ' ').replace('/', ' ')}"
    return replace(known, label=f"{label} (held out)" if named.held_out else label)


def _guess(base: str) -> Meaning:
    label = base.replace("_", " ").replace("/", " ").strip().capitalize() or base
    if base.endswith(("_per_second", "_seconds", "seconds", "_bytes", "memory")):
        return Meaning(label, "Pace and memory", unit="B" if base.endswith(("bytes", "memory")) else "")
    if base.endswith(("_rate", "_share", "_fraction", "accuracy")):
        return Meaning(label, unit="%", better="up" if base.endswith("accuracy") else "")
    if "reward" in base or "truth" in base:
        return Meaning(label, "Reward")
    if any(word in base for word in ("kl", "ratio", "value", "policy", "advantage", "entropy", "critic")):
        return Meaning(label, "Policy")
    return Meaning(label, better="down" if base.endswith("loss") else "")


def grouped(names: Iterable[str]) -> list[tuple[str, list[list[str]]]]:
    """(group, charts) in the order of the page; a chart is the list of series that it holds. Each name stands in exactly one chart."""
    charts: dict[tuple[str, str, str], list[str]] = {}
    names = list(names)
    parts = {parse(name).part for name in names}
    for name in names:
        named = parse(name)
        # Parts of a reward differ in scale from their sum as rarely as a held-out loss from the loss, so they share a chart; what a part is
        # made of has one of its own, or a dozen lines would hide one another.
        charts.setdefault((meaning(name).group, named.base, whole_of(named.part, parts)), []).append(name)
    rank = list(KNOWN)
    ordered = sorted(charts, key=lambda key: (GROUPS.index(key[0]), rank.index(key[1]) if key[1] in rank else len(rank), key[2]))
    groups: dict[str, list[list[str]]] = {}
    for key in ordered:
        groups.setdefault(key[0], []).append(charts[key])
    return list(groups.items())


def whole_of(part: str, parts: Iterable[str]) -> str:
    """The part that another one belongs to: `world` for `world_correct` where there are both; empty for one that stands by itself."""
    return max((other for other in parts if other and part.startswith(f"{other}_")), key=len, default="")


def pretty(value: float | None, unit: str = "") -> str:
    """A number as a person writes it: four digits at most, shares in percent, bytes in GiB."""
    if value is None:
        return "–"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "B":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    text = _plain(value)
    return f"{text} {unit}" if unit else text


def _plain(value: float) -> str:
    size = abs(value)
    if size and size < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    if value == int(value) and size < 1e5:
        return str(int(value))
    if size >= 1e5:
        return _scaled(value, 1000, ("", "k", "M", "G", "T"))
    digits = 2 - math.floor(math.log10(size)) if size < 1 else max(0, 4 - len(str(int(size))))
    return f"{value:.{digits}f}"


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    index = 0
    while abs(value) >= base and index < len(units) - 1:
        value, index = value / base, index + 1
    digits = 0 if value == int(value) else 1 if abs(value) >= 100 else 2
    return f"{value:.{digits}f} {units[index]}".strip()


def duration(seconds: float | None) -> str:
    """`48 s`, `7 min 5 s`, `3 h 12 min`, `2 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    rest = round(seconds)
    for (big, name), (small, small_name) in pairwise(parts):
        if rest >= big:
            second = rest % big // small
            return f"{rest // big} {name} {second} {small_name}" if second else f"{rest // big} {name}"
    return f"{rest} s"
