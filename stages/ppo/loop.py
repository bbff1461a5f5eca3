"""Proximal policy optimization, as it is told in the papers: answer, judge, estimate advantages, update, again.

Checkpoints lie between rollouts, where nothing is half-done. Randomness is counted (from seed, step and sample), so a resumed run needs weights,
optimizers and the KL coefficient, and goes on bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from stages.contract import Checkpoints, StageError
from stages.core import checkpoints
from stages.core.interrupt import Interrupted
from stages.ppo.algorithm import KLController
from stages.ppo.config import PPO
from stages.ppo.experience import collect
from stages.ppo.mix import Mix
from stages.ppo.players import Players
from stages.ppo.ranks import Ranks
from stages.ppo.rollout import Question, Rollouts
from stages.ppo.update import Update
from stages.ppo.watch import Watch


@dataclass
class Training:
    """All that a run of PPO consists of."""

    config: PPO
    seed: int
    players: Players
    rollouts: Rollouts
    questions: Sequence[Question]
    kl: KLController
    watch: Watch
    folder: Path
    """Of the checkpoints."""
    checkpoints: Checkpoints
    ranks: Ranks
    micro_batch: int | None = None
    mix: Mix | None = None

    def train(self, stop: Callable[[], bool]) -> None:
        """From the newest checkpoint, or the start, to the last step. Raises Interrupted after a checkpoint where `stop()` asks for it."""
        begin = self.resume()
        if begin == 0:
            self.watch.evaluate(0, self.players)
        for step in range(begin, self.config.steps):
            clock = Clock()
            rollout = self.rollouts.of_step(self.questions, self.config.batch, step)
            clock.lap("rollout")
            experience = collect(rollout, self.players, self.config, self.kl.coefficient, self.ranks, self.micro_batch)
            clock.lap("experience")
            moved = Update(self.players, experience, self.config, self.ranks, self.micro_batch, self.mix).run(self.seed, step)
            clock.lap("update")
            line = self.watch.report(step + 1, rollout, experience, moved, self.players, self.kl.coefficient, clock.seconds)
            if step >= self.config.critic_warmup:
                self.kl.adapt(line["kl"], self.config.batch)
            if (step + 1) % self.config.evaluate_every == 0 or step + 1 == self.config.steps:
                self.watch.evaluate(step + 1, self.players)
            asked = self.ranks.any(stop())
            if asked or self._checkpoint_is_due(step + 1):
                self.save(step + 1)
            if asked and step + 1 < self.config.steps:
                raise Interrupted(f"stopped after rollout {step + 1} of {self.config.steps}; the same command goes on")

    def _checkpoint_is_due(self, step: int) -> bool:
        every = self.checkpoints.every_steps or max(self.config.steps // 5, 1)
        return step % every == 0 or step == self.config.steps

    def save(self, step: int) -> None:
        """Seal a checkpoint of everything that the next step depends on."""
        if self.ranks.first:
            state = {"step": step, "coefficient": self.kl.coefficient, "told": self.watch.told, **self.players.state()}
            checkpoints.save(self.folder, step, lambda partial: torch.save(state, partial / "ppo.pt"), self.checkpoints.keep_last)
        self.ranks.wait()

    def resume(self) -> int:
        """Take over the newest whole checkpoint; the number of steps that are done."""
        newest = checkpoints.latest(self.folder)
        if newest is None:
            self.watch.rewind(-1)
            return 0
        state = torch.load(newest / "ppo.pt", weights_only=True, map_location="cpu")
        if state["step"] != checkpoints.step_of(newest):
            raise StageError(f"{newest} holds step {state['step']}; delete it to go on from the one before")
        self.players.load(state)
        self.kl.coefficient = state["coefficient"]
        self.watch.rewind(state["step"], state["told"])
        print(f"resumed after rollout {state['step']} of {self.config.steps}", flush=True)
        return int(state["step"])


class Clock:
    """Seconds of each phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()

    def lap(self, phase: str) -> None:
        now = perf_counter()
        self.seconds[phase], self._since = now - self._since, now
