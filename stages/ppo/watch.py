"""What can be seen of a run of PPO: a line of numbers for every rollout, evaluations on held-out prompts, samples, and named warnings."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from stages.contract import StageError, Table
from stages.core import metrics
from stages.core.metrics import Metrics
from stages.core.samples import Record
from stages.core.trackers import Trackers
from stages.core.watchdog import beat
from stages.ppo.algorithm import explained_variance, moments
from stages.ppo.config import PPO
from stages.ppo.experience import Experience, collect
from stages.ppo.guards import warnings
from stages.ppo.players import Players
from stages.ppo.ranks import Ranks
from stages.ppo.rollout import Question, Rollout, Rollouts
from stages.ppo.samples import Samples
from stages.ppo.update import Moved

FINAL_STEPS = 10
"""Result metrics are means over the last so many rollouts."""
SAMPLES_SHOWN, SAMPLES_TRACKED = 3, 16
UNMEASURED = ("step", "steps", "seconds", "tokens", "memory_bytes")
"""Of a line: what is no result."""
UNTOLD = ("held_out_reward_std", "held_out_reward_clipped", "held_out_kl_k2")
"""Of an evaluation: what is logged and not in the table."""


class Watch:
    def __init__(
        self,
        folder: Any,
        config: PPO,
        rollouts: Rollouts,
        held_out: Sequence[Question],
        ranks: Ranks,
        micro_batch: int | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.folder, self.config, self.rollouts, self.ranks, self.micro_batch = folder, config, rollouts, ranks, micro_batch
        self.held_out = list(held_out)[: config.evaluation_prompts]
        self.record = Metrics(folder, writes=ranks.first, trackers=trackers)
        self.samples = Samples(Record(folder / "samples.jsonl"), config.samples)
        self.lines: list[dict[str, Any]] = []
        """Lines of rollouts so far."""
        self.evaluations: list[dict[str, Any]] = []
        self.told: dict[str, str] = {}
        """Warnings given, by name."""

    def rewind(self, step: int, told: Mapping[str, str] | None = None) -> None:
        """Go on after `step` of an earlier attempt: later lines are dropped, what was told is not told again."""
        self.record.rewind(step)
        if self.ranks.first:
            self.samples.record.rewind(step)
        self.ranks.wait()
        lines = [line for line in metrics.read(self.folder / "metrics.jsonl") if line["step"] <= step]
        self.lines = [line for line in lines if "reward" in line]
        self.evaluations = [line for line in lines if "held_out_reward" in line]
        self.told = dict(told or {})

    def report(
        self,
        step: int,
        rollout: Rollout,
        experience: Experience,
        moved: Moved,
        players: Players,
        coefficient: float,
        seconds: dict[str, float],
    ) -> dict[str, float]:
        """Log a rollout's numbers, all of them over all processes, and warn of what looks wrong. Gives the line."""
        line = self._answers(rollout, experience) | self._critic(experience) | moved.means
        line |= {
            "ratio_max": self._largest(moved.largest_ratio),
            "ratio_min": -self._largest(-moved.smallest_ratio),
            "first_ratio_error": self._largest(moved.first_ratio_error),
            "sampler_difference": self._largest(experience.sampler_difference),
            **self._sampler(experience),
            "coefficient": coefficient,
            "learning_rate": players.policy.learning_rate,
            "update_stopped": float(moved.stopped),
            "tokens_per_second": line["tokens"] / sum(seconds.values()),
            **{f"seconds_{phase}": round(value, 4) for phase, value in seconds.items()},
        }
        self.record.log(step, self.config.steps, **line)
        if self.ranks.first and (step == 1 or step % 10 == 0 or step == self.config.steps):
            shown = ("reward", "kl", "entropy", "eos_rate", "length", "clip_fraction", "explained_variance")
            print(f"rollout {step}/{self.config.steps}  " + "  ".join(f"{k} {line[k]:.3f}" for k in shown if k in line), flush=True)
        self._warn(step, line)
        self.lines.append({"step": step, **line})
        return line

    def evaluate(self, step: int, players: Players) -> dict[str, float]:
        """Answer the held-out prompts, always with the same random numbers, and log reward, KL and every part of the reward. Gives the line."""
        rollout = self.rollouts.held_out(self.held_out)
        experience = collect(rollout, players, self.config, 0.0, self.ranks, self.micro_batch)
        line = {f"held_out_{name}": value for name, value in self._answers(rollout, experience).items() if name != "tokens"}
        self.record.log(step, self.config.steps, **line)
        self.evaluations.append({"step": step, **line})
        if self.ranks.first:
            numbers = "  ".join(f"{name.removeprefix('held_out_')} {value:.3f}" for name, value in line.items())
            print(f"held out after {step}  {numbers}", flush=True)
            for text, score in list(zip(rollout.texts, rollout.scores.total, strict=True))[:SAMPLES_SHOWN]:
                print(f"  {score:+.2f}  {text!r}", flush=True)
            self._show(step, rollout)
        return line

    def _show(self, step: int, rollout: Rollout) -> None:
        """The first held-out answers, in `samples.jsonl` and for trackers."""
        self.samples.write(step, rollout, [self.held_out[number].record.messages for number in rollout.samples])
        asked = [self.held_out[number].record.messages[-1]["content"] for number in rollout.samples]
        answers = zip(asked, rollout.texts, map(float, rollout.scores.total), strict=True)
        rows = [list(answer) for answer in answers][:SAMPLES_TRACKED]
        self.record.trackers.samples(step, "samples", ["prompt", "answer", "reward"], rows)

    def _answers(self, rollout: Rollout, experience: Experience) -> dict[str, float]:
        """Means over answers of all processes; entropy is one over tokens."""
        lengths_B = experience.mask_BT.sum(1).double()
        per_answer = {
            "reward": experience.score_B.double(),
            "reward_square": experience.score_B.double().square(),
            "kl": experience.k1_B.double(),
            "kl_k3": experience.k3_B.double(),
            "kl_k2": experience.k2_B.double(),
            "length": lengths_B,
            "eos_rate": torch.tensor([float(completion.finished) for completion in rollout.completions], dtype=torch.float64),
            "reward_clipped": torch.from_numpy(
                np.zeros(len(lengths_B)) if (at := rollout.scores.clipped) is None else at.astype(np.float64)
            ),
            **{f"reward_{name}": torch.from_numpy(np.asarray(values, dtype=np.float64)) for name, values in rollout.scores.parts.items()},
            "entropy": experience.entropy_BT.double().sum(1),
        }
        sums = torch.stack([torch.ones_like(lengths_B).sum(), *(values_B.sum() for values_B in per_answer.values())])
        count, *totals = self.ranks.sum(sums).tolist()
        line = {name: total / count for name, total in zip(per_answer, totals, strict=True)}
        line["entropy"] /= line["length"]
        line["reward_std"] = max(line.pop("reward_square") - line["reward"] ** 2, 0.0) ** 0.5
        line["tokens"] = line["length"] * count
        return line

    def _critic(self, experience: Experience) -> dict[str, float]:
        mask_BT = experience.mask_BT
        return {
            "explained_variance": explained_variance(experience.values_BT, experience.returns_BT, mask_BT, self.ranks.sum),
            "advantage_std": moments(experience.raw_advantages_BT, mask_BT, self.ranks.sum).variance ** 0.5,
            "value_mean": moments(experience.values_BT, mask_BT, self.ranks.sum).mean,
        }

    def _largest(self, value: float) -> float:
        """The largest of all processes' values, by sums: each fills its own place."""
        places = torch.zeros(self.ranks.size, dtype=torch.float64)
        places[self.ranks.rank] = value
        return float(self.ranks.sum(places).max())

    def _sampler(self, experience: Experience) -> dict[str, float]:
        """How far the engine that drew the answers is from the trainer: KL per token by k3, and the weights that correct for it."""
        ratio_N, cap = experience.ratio_N, self.config.cap
        above = torch.zeros_like(ratio_N) if cap is None else (ratio_N > cap).double()
        sums = torch.stack([torch.ones_like(ratio_N), ratio_N - 1 - ratio_N.log(), ratio_N, above]).sum(1)
        count, kl, weight, capped = self.ranks.sum(sums).tolist()
        found = {"sampler_kl": kl / count, "importance_mean": weight / count, "importance_max": self._largest(float(ratio_N.max()))}
        return found if cap is None else found | {"importance_capped": capped / count}

    def _warn(self, step: int, line: dict[str, float]) -> None:
        for warning in warnings(line, self.lines):
            if warning.name in self.told:
                continue
            sentence = f"{warning.name} at rollout {step}: {warning.sentence}"
            self.told[warning.name] = sentence
            if self.ranks.first:
                print(f"warning: {sentence}", flush=True)
            if self.config.guards == "stop":
                raise StageError(sentence)

    def score(self, step: int) -> float | None:
        """By which the best checkpoint is kept: the reward on held-out prompts after that step, if it was measured."""
        return next((float(line["held_out_reward"]) for line in reversed(self.evaluations) if line["step"] == step), None)

    def final(self, kept: int) -> dict[str, float]:
        """The result's numbers: means over the last rollouts, the first evaluation, and that of the policy that is left, after rollout `kept`."""
        last = self.lines[-FINAL_STEPS:]
        # An update that is left out gives no numbers, so that the last rollout may lack what those before it have.
        names = dict.fromkeys(
            name for line in reversed(last) for name in line if name not in UNMEASURED and not name.startswith("seconds_")
        )
        measured = {name: [line[name] for line in last if line.get(name) is not None and np.isfinite(line[name])] for name in names}
        found = {name: float(np.mean(values)) for name, values in measured.items() if values}
        left = next(line for line in reversed(self.evaluations) if line["step"] <= kept)
        found |= {name: value for name, value in left.items() if name.startswith("held_out_")}
        return found | {"held_out_reward_before": self.evaluations[0]["held_out_reward"]}

    def table(self) -> Table:
        names = [name for name in self.evaluations[0] if name.startswith("held_out_") and name not in UNTOLD]
        rows: list[list[str | float | None]] = [[line["step"], *(line.get(name) for name in names)] for line in self.evaluations]
        return Table(title="Held-out prompts", columns=["rollout", *(n.removeprefix("held_out_") for n in names)], rows=rows)


class Clock:
    """Seconds of each phase of a step, each of which is a sign of life."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()
        beat()

    def lap(self, phase: str) -> None:
        beat()
        now = perf_counter()
        self.seconds[phase], self._since = now - self._since, now
