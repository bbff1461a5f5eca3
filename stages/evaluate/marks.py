"""What the answers are worth: by rule, by reward, against the baseline. Arrays of one value a prompt become estimates with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.core.answers import Scores
from stages.core.rewards import Rewards
from stages.core.seeds import seed_for
from stages.core.statistics import Estimate, Floats, best_of, best_of_kl, bootstrap, estimate, wins
from stages.evaluate.exam import Exam, Paper, ended, graded, lengths
from stages.evaluate.family import Member
from stages.evaluate.report import BestOf, Column, Said


@dataclass(frozen=True)
class Marks:
    """One member's exam, marked. Arrays are (N) over the prompts, in the exam's order."""

    paper: Paper
    truth: str
    """Which part of the rule's verdict counts."""
    sampled: dict[str, Floats]
    greedy: dict[str, Floats]
    rewards: list[Scores]
    """By sample; empty without rewards."""
    greedy_rewards: Scores | None
    kl: Floats | None


def mark(paper: Paper, kl: Floats | None, rewards: Rewards | None) -> Marks:
    """Grade and score one member's answers in one exam."""
    rule = paper.exam.task.rule
    truth, sampled = graded(rule, paper.sampled_answers())
    _, greedy = graded(rule, paper.greedy_answers())
    scored = [rewards.score(paper.sampled_answers(sample)) for sample in range(len(paper.sampled))] if rewards else []
    return Marks(paper, truth, sampled, greedy, scored, rewards.score(paper.greedy_answers()) if rewards else None, kl)


def column_of(member: Member, marks: Sequence[Marks], baseline: Sequence[Marks] | None, seed: int) -> Column:
    """All that is known of one member. `baseline` holds the baseline's marks, None for the baseline itself."""
    column = Column(member.name, dict(member.text))
    for number, marked in enumerate(marks):
        key = naming(marked.paper.exam, len(marks))
        told = _told(marked, None if baseline is None else baseline[number])
        column.values |= {key(name): _estimated(name, values, seed) for name, values in told.items()}
        parts = {**marked.sampled, **{f"{name}_greedy": values for name, values in marked.greedy.items()}}
        for group in sorted({name for name in marked.paper.exam.groups if name is not None}):
            inside = np.array([name == group for name in marked.paper.exam.groups])
            grouped = {f"{name}_{group}": estimate(values[inside], seed=_seed(seed, name)) for name, values in parts.items()}
            column.grouped |= {key(name): value for name, value in grouped.items()}
    return column


def _told(marks: Marks, baseline: Marks | None) -> dict[str, Floats]:
    """The quantities of one exam, in the table's order."""
    told = {
        name: values for part in marks.sampled for name, values in ((part, marks.sampled[part]), (f"{part}_greedy", marks.greedy[part]))
    }
    if marks.rewards and marks.greedy_rewards:
        told |= {"reward": marks.rewards[0].total, "reward_greedy": marks.greedy_rewards.total}
        if len(marks.rewards[0].parts) > 1:
            told |= {f"reward_{name}": values for name, values in marks.rewards[0].parts.items()}
        if baseline is not None:
            told["win_rate"] = wins(marks.rewards[0].total, baseline.rewards[0].total)
    if marks.kl is not None:
        told["kl"] = marks.kl
    answers = marks.paper.sampled[0]
    return told | {"length": lengths(answers), "eos_rate": ended(answers)}


def naming(exam: Exam, exams: int) -> Callable[[str], str]:
    """`good`, or `exam.good` where there are several exams."""
    return (lambda name: name) if exams == 1 else (lambda name: f"{exam.task.name}.{name}")


def best_of_column(baseline: Member, marks: Sequence[Marks], n: int, seed: int) -> Column:
    """What choosing the best of n samples of the baseline by reward would reach: the yardstick for PPO."""
    column = Column(f"best of {n} of {baseline.name}", key=f"best_of_{n}")
    for marked in marks:
        key = naming(marked.paper.exam, len(marks))
        rewards_NK = np.stack([scores.total for scores in marked.rewards], axis=1)
        parts = [graded(marked.paper.exam.task.rule, marked.paper.sampled_answers(sample))[1] for sample in range(len(marked.rewards))]
        for name in parts[0]:
            values_NK = np.stack([part[name] for part in parts], axis=1)
            column.values[key(name)] = estimate(best_of(rewards_NK, values_NK, n), seed=_seed(seed, name))
        column.values[key("reward")] = estimate(best_of(rewards_NK, rewards_NK, n), seed=_seed(seed, "reward"))
        column.values[key("kl")] = best_of_kl(n)
    return column


def best_of_curve(baseline: Member, marks: Marks, seed: int) -> BestOf:
    """Reward and truth of the best of 1, 2, 4 and so on samples of the baseline."""
    rewards_NK = np.stack([scores.total for scores in marks.rewards], axis=1)
    verdicts = [graded(marks.paper.exam.task.rule, marks.paper.sampled_answers(k))[1][marks.truth] for k in range(rewards_NK.shape[1])]
    numbers = sorted({2**power for power in range(20) if 2**power <= rewards_NK.shape[1]} | {rewards_NK.shape[1]})

    def curve(values_NK: Floats) -> dict[int, Estimate]:
        return {n: estimate(best_of(rewards_NK, values_NK, n), seed=_seed(seed, "best of")) for n in numbers}

    return BestOf(baseline.name, curve(rewards_NK), curve(np.stack(verdicts, axis=1)))


def said(name: str, marks: Marks, number: int) -> list[Said]:
    """One member's two answers to one prompt."""
    both = [("sampled", marks.paper.texts["sampled"][0], marks.sampled, marks.rewards[0] if marks.rewards else None)]
    both.append(("greedy", marks.paper.texts["greedy"][0], marks.greedy, marks.greedy_rewards))
    return [
        Said(name, manner, texts[number], {marks.truth: parts[marks.truth][number]} | ({"reward": scores.total[number]} if scores else {}))
        for manner, texts, parts, scores in both
    ]


def _estimated(name: str, values: Floats, seed: int) -> Estimate:
    """An interval for a share, or the bootstrap's for what only happens to be 0 or 1."""
    shares = not name.startswith(("reward", "kl", "length"))
    return (estimate if shares else bootstrap)(values, seed=_seed(seed, name))


def _seed(seed: int, name: str) -> int:
    return seed_for(seed, "bootstrap", name)
