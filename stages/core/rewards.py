"""Rewards of answers: a weighted list of reward models and rules, each seen by itself. PPO learns from their sum, `evaluate` shows it.

A reward model is asked about exactly the ids that it was trained on: the prompt as its template renders it, the sampled tokens themselves (no
round trip through text, which would cut words anew where prompt and answer meet), and the end-of-turn token, if and only if the answer ended.
Its score is read at the last real token by our own index: transformers' classifiers look for the last id that is not the pad id, and so
overlook an end token that is also the pad token.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data import chat
from data.errors import DataError
from stages.adapters.prompts import hidden_states
from stages.contract import Artifact, Hardware, Job
from stages.core.answers import Answers, Scorer, Scores
from stages.core.config import RewardPart, names_of
from stages.core.generation import Completion
from stages.core.logprobs import passes
from stages.core.models import check_fit, context_of, load_reward_model, load_tokenizer
from stages.core.parity import backbone
from stages.core.remote import RemoteScorer
from stages.core.rules import Grade, Rule, load_rule, score_of
from stages.core.watchdog import beat


@dataclass
class RuleScorer:
    rule: Rule
    called: str = "a rule"
    """In messages."""
    named: tuple[str, ...] | None = None
    """What the rule's grades are called, from its first answer on."""

    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        """Raises DataError where a grade has other names than the first one had, or is no finite number."""
        rows = zip(answers.prompts, answers.texts, answers.completions, answers.references, strict=True)
        grades: list[Grade] = []
        for prompt, text, completion, reference in rows:
            beat()
            grades.append(grade := self.rule(prompt, text, completion.finished, reference))
            self._same_names(grade, text)
            self._check_numbers(grade, text)
        found = {"": np.array([score_of(grade) for grade in grades], dtype=np.float64)}
        return found | {
            name: np.array([grade[name] for grade in grades if isinstance(grade, Mapping)], dtype=np.float64) for name in self.named or ()
        }

    def _same_names(self, grade: Grade, text: str) -> None:
        names = tuple(grade) if isinstance(grade, Mapping) else ()
        self.named = names if self.named is None else self.named
        if set(names) != set(self.named):
            first, here = (", ".join(each) or "a number alone" for each in (self.named, names))
            raise DataError(
                f"{self.called} gave {first} for its first answer and {here} for {text[:60]!r}; wanted the same names for every answer"
            )

    def _check_numbers(self, grade: Grade, text: str) -> None:
        values = dict(grade) if isinstance(grade, Mapping) else {"": grade}
        for name, value in values.items():
            try:
                known = math.isfinite(value)
            except (TypeError, ValueError, OverflowError):
                known = False
            if not known:
                told = f"{name}: {value!r}" if name else repr(value)
                raise DataError(f"{self.called} gave {told} for {text[:60]!r}; wanted a finite number, or several by name")


@dataclass(frozen=True)
class ModelScorer:
    """A reward model and how its scores are brought to mean 0 and deviation 1."""

    model: Any
    end_of_turn: int
    """The token that ends an answer in the data that the reward model was trained on."""
    tokenizer: Any = None
    """The reward model's own tokenizer where the policy's is another: answers then go through their text."""
    mean: float = 0.0
    std: float = 1.0
    micro_batch: int | None = None
    rounds: Callable[[int], int] = lambda own: own
    """As in `last_token_scores`."""
    context: int | None = None
    """Most tokens of a conversation that it can read; None where it reads on the policy's own base."""

    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        scores = last_token_scores(self.model, self.queries(answers), self.micro_batch, self.rounds)
        return {"": (scores.double().numpy() - self.mean) / self.std}

    def queries(self, answers: Answers) -> list[list[int]]:
        """The ids that the reward model reads, for each answer."""
        if self.tokenizer is None:
            pairs = zip(answers.prompt_ids, answers.completions, strict=True)
            return [[*prompt, *ended(completion, self.end_of_turn)] for prompt, completion in pairs]
        rows = zip(answers.prompts, answers.texts, answers.completions, strict=True)
        return [self._through_text(prompt, text, completion.finished) for prompt, text, completion in rows]

    def _through_text(self, prompt: list[dict[str, Any]], text: str, finished: bool) -> list[int]:
        ids = list(chat.render(self.tokenizer, [*prompt, {"role": "assistant", "content": text}]).ids)
        end = len(ids) - 1 - ids[::-1].index(self.end_of_turn)
        return ids[: end + 1] if finished else ids[:end]


@dataclass(frozen=True)
class Ensemble:
    """Several reward models as one: what a policy finds to please one of them, the others need not like (Coste et al. 2024, 2310.02743)."""

    members: Sequence[ModelScorer]
    combine: Literal["mean", "worst", "uncertainty"]
    uncertainty: float

    def score(self, answers: Answers) -> dict[str, np.ndarray]:
        scores_KB = np.stack([member.score(answers)[""] for member in self.members])
        return {"": combined(scores_KB, self.combine, self.uncertainty), "spread": scores_KB.std(axis=0)}


def combined(scores_KB: np.ndarray, how: Literal["mean", "worst", "uncertainty"], uncertainty: float) -> np.ndarray:
    """One score (B) of K models': their mean, the lowest, or the mean less `uncertainty` times their population variance."""
    if how == "worst":
        return np.asarray(scores_KB.min(axis=0))
    mean_B = scores_KB.mean(axis=0)
    return np.asarray(mean_B - uncertainty * scores_KB.var(axis=0) if how == "uncertainty" else mean_B)


def ended(completion: Completion, end_of_turn: int) -> list[int]:
    """The answer's ids, ended by the end-of-turn token if it finished (with that or with another end token, such as EOS)."""
    return [*completion.ids[:-1], end_of_turn] if completion.finished else completion.ids


@torch.no_grad()
def last_token_scores(
    model: Any, rows: Sequence[Sequence[int]], micro_batch: int | None = None, rounds: Callable[[int], int] = lambda own: own
) -> Tensor:
    """Scores (B) float32 on the CPU of a sequence classifier at the last token of each row, whatever the padding and the pad id.

    `rounds` says how many passes to make in place of as many as are needed, for a model that several processes hold together.
    """
    scores_B = torch.zeros(len(rows))
    device = next(model.parameters()).device
    batches = passes([len(row) for row in rows], micro_batch, device)
    for batch in [*batches, *batches[:1] * (rounds(len(batches)) - len(batches))]:
        longest = max(len(rows[i]) for i in batch)
        ids = torch.tensor([[*rows[i], *[0] * (longest - len(rows[i]))] for i in batch], device=device)
        last = torch.tensor([len(rows[i]) - 1 for i in batch], device=device)
        beat()
        # A judge on a shared base reads with its own adapters, which do not act otherwise.
        hidden_BLH = model.read(ids) if hasattr(model, "read") else hidden_states(model, backbone_of(model), ids)
        scores_B[batch] = model.score(hidden_BLH[torch.arange(len(batch), device=device), last]).float()[:, 0].cpu()
    return scores_B


def backbone_of(classifier: Any) -> Any:
    """The decoder under a sequence classifier's score head, bare or inside a peft model."""
    return backbone(classifier)


class Rewards:
    """The weighted list."""

    def __init__(self, parts: Sequence[tuple[str, RewardPart, Scorer]]) -> None:
        self.parts = parts

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and answer that all of the reward models can read; None if there is no such limit."""
        scorers = [one for _, _, scorer in self.parts for one in (scorer.members if isinstance(scorer, Ensemble) else [scorer])]
        return min((one.context for one in scorers if isinstance(one, ModelScorer) and one.context is not None), default=None)

    def score(self, answers: Answers) -> Scores:
        """Every part of every answer, clipped where the recipe says so, and the weighted sum."""
        total = np.zeros(len(answers.completions))
        clipped = np.zeros(len(answers.completions), dtype=bool)
        seen: dict[str, np.ndarray] = {}
        for name, part, scorer in self.parts:
            found = scorer.score(answers)
            score = found.pop("")
            if not np.isfinite(score).all():
                raise DataError(f"reward '{name}' gave a score that is not a finite number")
            if part.clip is not None:
                clipped |= (np.abs(score) > part.clip) & (part.weight != 0)
                score = score.clip(-part.clip, part.clip)
            total += part.weight * score
            seen[name] = score
            seen |= {f"{name}_{shown}": values for shown, values in found.items()}
        return Scores(total, seen, clipped)


def build_rewards(
    parts: Sequence[RewardPart],
    job: Job,
    tokenizer: Any,
    hardware: Hardware,
    prefix: str = "rewards",
    on_base: Callable[[Path], Any] = lambda path: None,
) -> Rewards:
    """The rewards that a recipe lists; reward models are read from the job's inputs `{prefix}.{number}.model`. Raises DataError.

    `on_base` may give a reward model as adapters on a base that is in memory already, or None.
    """
    built: list[tuple[str, RewardPart, Scorer]] = []
    for number, (name, part) in enumerate(zip(names_of(parts), parts, strict=True)):
        built.append((name, part, _scorer(part, f"{prefix}.{number}", job, tokenizer, hardware, on_base)))
    return Rewards(built)


def _scorer(part: RewardPart, field: str, job: Job, tokenizer: Any, hardware: Hardware, on_base: Callable[[Path], Any]) -> Scorer:
    if part.rule is not None:
        return RuleScorer(load_rule(part.rule), f"rule '{part.rule}'")
    if part.remote is not None:
        return RemoteScorer(part.remote)
    members = [_model_scorer(job.inputs[f"{field}.{inner}"].path, part, tokenizer, hardware, on_base) for inner, _ in part.takes]
    return Ensemble(members, part.combine, part.uncertainty) if part.models else members[0]


def _model_scorer(path: Path, part: RewardPart, tokenizer: Any, hardware: Hardware, on_base: Callable[[Path], Any]) -> ModelScorer:
    own, context = load_tokenizer(path), None
    model = on_base(path)
    if model is None:
        model = load_reward_model(path, hardware).requires_grad_(False)
        check_fit(model, own, path)
        context = context_of(model)
    same = own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
    if not same:
        print(f"{path}: another tokenizer than the policy's; answers reach this reward model through their text", flush=True)
    mean, std = reward_statistics(path) if part.normalise else (0.0, 1.0)
    rows = hardware.micro_batch if isinstance(hardware.micro_batch, int) else None
    return ModelScorer(model, end_of_turn(own), None if same else own, mean, std, rows, context=context)


def reward_statistics(path: Path) -> tuple[float, float]:
    """Mean and standard deviation of a reward model's scores as its artifact states them; 0 and 1 where it does not."""
    file = path / "artifact.json"
    artifact = Artifact.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else Artifact(kind="reward-model")
    std = artifact.reward_std if artifact.reward_std is not None else 1.0
    return artifact.reward_mean or 0.0, max(std, 1e-6)


def end_of_turn(tokenizer: Any) -> int:
    """The token that a tokenizer's chat template ends an assistant turn with: the last one that is learned."""
    tokens = chat.render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    return [token for token, learned in zip(tokens.ids, tokens.learn, strict=True) if learned][-1]
