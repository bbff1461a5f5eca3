"""What the answers are worth: by rule, by reward, against the baseline. Arrays of one value a prompt become estimates with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.contract import Table
from stages.core.answers import Scores
from stages.core.rewards import Rewards
from stages.core.seeds import seed_for
from stages.core.statistics import Estimate, Floats, above_best_of, best_of, best_of_kl, bootstrap, estimate, wins
from stages.evaluate.exam import Exam, Paper, ended, graded, lengths
from stages.evaluate.family import Member
from stages.evaluate.report import BestOf, Column, Said, readable, shown

ABOVE_CURVE = "reward_above_best_of_n_at_its_kl"


@dataclass(frozen=True)
class Marks:
    """One member's exam, marked. Arrays are (N) over the prompts, in the exam's order."""

    paper: Paper
    truth: str
    """Which part of the rule's verdict counts."""
    verdicts: list[dict[str, Floats]]
    """What the rule says of each sample."""
    greedy: dict[str, Floats]
    rewards: list[Scores]
    """By sample; empty without rewards."""
    greedy_rewards: Scores | None
    kl: Floats | None
    answers: int = 1
    """The first so many samples are the model's answers; the others are only for best-of-n."""

    @property
    def sampled(self) -> dict[str, Floats]:
        """The rule's verdict, as the mean over a prompt's answers."""
        return {name: self._mean([verdict[name] for verdict in self.verdicts]) for name in self.verdicts[0]}

    @property
    def reward(self) -> Floats:
        """As the mean over a prompt's answers."""
        return self._mean([scores.total for scores in self.rewards])

    @property
    def rewards_NK(self) -> Floats:
        """Of every sample."""
        return np.stack([scores.total for scores in self.rewards], axis=1)

    def verdicts_NK(self, part: str) -> Floats:
        """Of every sample."""
        return np.stack([verdict[part] for verdict in self.verdicts], axis=1)

    def _mean(self, samples: Sequence[Floats]) -> Floats:
        mean_N: Floats = np.mean(samples[: self.answers], axis=0)
        return mean_N


def mark(paper: Paper, kl: Floats | None, rewards: Rewards | None, answers: int = 1) -> Marks:
    """Grade and score one member's answers in one exam."""
    rule = paper.exam.task.rule
    truth, greedy = graded(rule, paper.greedy_answers())
    samples = range(len(paper.sampled))
    verdicts = [graded(rule, paper.sampled_answers(sample))[1] for sample in samples]
    scored = [rewards.score(paper.sampled_answers(sample)) for sample in samples] if rewards else []
    return Marks(paper, truth, verdicts, greedy, scored, rewards.score(paper.greedy_answers()) if rewards else None, kl, answers)


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
        name: values for part, whole in marks.sampled.items() for name, values in ((part, whole), (f"{part}_greedy", marks.greedy[part]))
    }
    given = range(marks.answers)
    if marks.rewards and marks.greedy_rewards:
        told |= {"reward": marks.reward, "reward_greedy": marks.greedy_rewards.total}
        if len(marks.rewards[0].parts) > 1:
            told |= {f"reward_{name}": np.mean([marks.rewards[k].parts[name] for k in given], axis=0) for name in marks.rewards[0].parts}
        if baseline is not None:
            told["win_rate"] = np.mean([wins(marks.rewards[k].total, baseline.rewards[k].total) for k in given], axis=0)
    if marks.kl is not None:
        told["kl"] = marks.kl
    answers = marks.paper.sampled[: marks.answers]
    return told | {"length": np.mean(list(map(lengths, answers)), axis=0), "eos_rate": np.mean(list(map(ended, answers)), axis=0)}


def naming(exam: Exam, exams: int) -> Callable[[str], str]:
    """`good`, or `exam.good` where there are several exams."""
    return (lambda name: name) if exams == 1 else (lambda name: f"{exam.task.name}.{name}")


def best_of_column(baseline: Member, marks: Sequence[Marks], n: int, seed: int) -> Column:
    """What choosing the best of n samples of the baseline by reward would reach: the yardstick for PPO."""
    column = Column(f"best of {n} of {baseline.name}", key=f"best_of_{n}")
    for marked in marks:
        key = naming(marked.paper.exam, len(marks))
        column.values |= {key(name): estimate(values, seed=_seed(seed, name)) for name, values in best_parts(marked, n).items()}
        column.values[key("kl")] = best_of_kl(n)
    return column


def best_parts(marks: Marks, n: int) -> dict[str, Floats]:
    """Every part of the rule's verdict, and the reward, expected of the best of n samples by reward: (N) each."""
    parts = {name: marks.verdicts_NK(name) for name in marks.verdicts[0]} | {"reward": marks.rewards_NK}
    return {name: best_of(marks.rewards_NK, values_NK, n) for name, values_NK in parts.items()}


def add_changes(
    columns: Sequence[Column], family: Sequence[Member], marks: dict[str, list[Marks]], baseline: Member, n: int, seed: int
) -> None:
    """What became of the baseline's answers, prompt by prompt: pairing takes the prompts' own difficulty out of the intervals.

    Beside it, how far each model's reward lies above that of the best of n of the baseline, where there is one (n > 1).
    """
    for number, before in enumerate(marks[baseline.name]):
        key, was = naming(before.paper.exam, len(marks[baseline.name])), _answered(before)
        best = best_parts(before, n) if n > 1 else {}
        found = {member.name: _answered(marks[member.name][number]) for member in family if member is not baseline}
        found |= {column.name: best for column in columns if column.name not in marks}
        for column in columns:
            now = found.get(column.name, {})
            changes = {f"{name}_change": values - was[name] for name, values in now.items()}
            if best and column.name in marks and now:
                changes[f"reward_above_best_of_{n}"] = now["reward"] - best["reward"]
            column.changes |= {key(name): bootstrap(values, seed=_seed(seed, name)) for name, values in changes.items()}
        for member in family if n > 1 else ():
            if member is not baseline and (above := above_curve(marks[member.name][number], before, seed)) is not None:
                next(c for c in columns if c.name == member.name).changes[key(ABOVE_CURVE)] = above


def above_curve(marks: Marks, baseline: Marks, seed: int) -> Estimate | None:
    """How far a model's reward lies above the baseline's best-of-n curve at equal KL; None where the curve does not reach as far, or KL is not known."""
    if marks.kl is None:
        return None
    return above_best_of(marks.reward, marks.kl, baseline.rewards_NK, seed=_seed(seed, ABOVE_CURVE))


def curve_table(baseline: Member, marks: Marks, seed: int) -> Table:
    """What the best of n samples of the baseline costs at most in KL, and what it brings."""
    curve = best_of_curve(baseline, marks, seed)
    rows: list[list[str | float | None]] = [
        [str(n), round(best_of_kl(n), 3), shown(curve.rewards[n]), shown(curve.truths[n])] for n in curve.rewards
    ]
    return Table(
        title=f"Best of n of {baseline.name}, {marks.paper.exam.task.name}",
        columns=["n", "kl, at most", "reward", readable(marks.truth)],
        rows=rows,
    )


def _answered(marks: Marks) -> dict[str, Floats]:
    """Verdicts and reward of the sampled answers, and verdicts of the greedy one: (N) each."""
    told = {**marks.sampled, **{f"{name}_greedy": values for name, values in marks.greedy.items()}}
    return told | ({"reward": marks.reward} if marks.rewards else {})


def best_of_curve(baseline: Member, marks: Marks, seed: int) -> BestOf:
    """Reward and truth of the best of 1, 2, 4 and so on samples of the baseline."""
    rewards_NK = marks.rewards_NK
    numbers = sorted({2**power for power in range(20) if 2**power <= rewards_NK.shape[1]} | {rewards_NK.shape[1]})

    def curve(values_NK: Floats) -> dict[int, Estimate]:
        return {n: estimate(best_of(rewards_NK, values_NK, n), seed=_seed(seed, "best of")) for n in numbers}

    return BestOf(baseline.name, curve(rewards_NK), curve(marks.verdicts_NK(marks.truth)))


def said(name: str, marks: Marks, number: int) -> list[Said]:
    """One member's two answers to one prompt."""
    both = [("sampled", marks.paper.texts["sampled"][0], marks.verdicts[0], marks.rewards[0] if marks.rewards else None)]
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
