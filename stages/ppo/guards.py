"""Signs of trouble in PPO's numbers, each with its likely cause and what helps. Pure: metrics in, sentences out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Line = Mapping[str, float]


@dataclass(frozen=True)
class Warning:
    name: str
    sentence: str


def warnings(line: Line, history: Sequence[Line]) -> list[Warning]:
    """What is wrong after a step: `line` holds its metrics, `history` those of the steps before it, oldest first. Named, so that each is told once."""
    first = history[0] if history else line
    recent = [*history[-9:], line]
    found = {
        "negative-kl": line["kl"] < -0.5 and _mean(recent, "kl") < -0.1,
        "kl-explosion": line["kl"] > 30.0 or line["kl_k3"] > 1000.0,
        "entropy-collapse": line["entropy"] < 0.05 * first["entropy"],
        "equal-rewards": line["reward_std"] < 1e-6,
        "few-ends": line["eos_rate"] < 0.1,
        "length-runaway": line["length"] > 2.0 * first["length"] and line["reward"] > first["reward"] and line["eos_rate"] < 0.8,
        "reward-at-clip": line.get("reward_clipped", 0.0) > 0.2,
        "value-at-clip": len(recent) == 10 and all(each.get("value_clip_fraction", 0.0) > 0.5 for each in recent),
        "much-clipped": line.get("clip_fraction", 0.0) > 0.4,
        "blind-critic": len(recent) == 10 and all(each.get("explained_variance", 0.0) < 0.0 for each in recent),
        "equal-advantages": line["reward_std"] >= 1e-6 and line["advantage_std"] < 1e-4,
        "sampler-differs": line["sampler_difference"] > 0.05,
    }
    return [Warning(name, SENTENCES[name]) for name, there in found.items() if there]


def _mean(lines: Sequence[Line], name: str) -> float:
    return sum(line[name] for line in lines) / len(lines)


SENTENCES = {
    "negative-kl": "the KL to the reference is negative on average: answers are drawn from another distribution than the one that is scored "
    "(a sampling filter, another temperature, or a reference that is not the starting policy)",
    "kl-explosion": "the policy has run far from the reference: raise kl.coefficient, set kl.target, or lower policy_optimizer.learning_rate",
    "entropy-collapse": "the policy hardly varies its answers any more: raise kl.coefficient or entropy, or lower policy_optimizer.learning_rate",
    "equal-rewards": "all answers of a rollout got the same reward, so there is nothing to learn: check the rule or the reward model on a few answers",
    "few-ends": "fewer than one answer in ten ends by itself: raise sampling.max_new_tokens or missing_eos_penalty, "
    "and check that SFT learned the end-of-turn token",
    "length-runaway": "reward rises while answers grow and stop ending: the reward model probably likes length; set overlong or add a length rule",
    "reward-at-clip": "more than a fifth of the answers lie beyond the clip of a reward, where better and worse are the same: "
    "raise its clip or lower its weight, and look whether the policy has found a hole in it",
    "value-at-clip": "for ten rollouts more than half of the values have been held back by value_clip: raise it, or leave it out (null) "
    "where rewards are not of deviation 1",
    "much-clipped": "more than 40 % of the tokens are clipped: lower policy_optimizer.learning_rate, or use fewer epochs or minibatches",
    "blind-critic": "the critic has been worse than a constant for ten rollouts: raise critic_optimizer.learning_rate or critic_warmup",
    "equal-advantages": "advantages hardly differ although rewards do: look at gamma, lam and the critic's scale",
    "sampler-differs": "the sampler's log-probabilities differ from the trainer's by more than 0.05 nats for some token: answers are drawn from another "
    "distribution than the one that learns; look at sampler_kl, and set importance_cap where it stays",
}
