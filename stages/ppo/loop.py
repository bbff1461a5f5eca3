"""Proximal policy optimization, as it is told in the papers: answer, judge, estimate advantages, update, again.

Checkpoints lie between rollouts, where nothing is half-done. Randomness is counted (from seed, step and sample), so a resumed run needs weights,
optimizers and a few running numbers, and goes on bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from stages.contract import StageError
from stages.core import checkpoints
from stages.core.checkpoints import Saver
from stages.core.divergence import Trouble
from stages.core.interrupt import Interrupted
from stages.ppo.algorithm import KLController, RunningMoments
from stages.ppo.config import PPO
from stages.ppo.experience import Experience, collect
from stages.ppo.keeping import Keeping
from stages.ppo.mix import Mix
from stages.ppo.players import NotFiniteError, Players
from stages.ppo.ranks import Ranks
from stages.ppo.rollout import Question, Rollout, Rollouts, answers_told
from stages.ppo.update import Moved, Update
from stages.ppo.watch import Clock, Watch


@dataclass
class Training:
    """All that a run of PPO consists of."""

    config: PPO
    seed: int
    players: Players
    rollouts: Rollouts
    questions: Sequence[Question]
    kl: KLController
    keeping: Keeping
    watch: Watch
    saver: Saver
    ranks: Ranks
    micro_batch: int | None = None
    mix: Mix | None = None
    running: RunningMoments | None = None
    trouble: Trouble | None = None
    """What is done about gradients that are not finite; they end the run if left out."""

    def train(self, stop: Callable[[], bool]) -> None:
        """From the newest checkpoint, or the start, to the last step. Raises Interrupted after a checkpoint where `stop()` asks for it."""
        begin = self.resume()
        if begin == 0:
            self.evaluate(0)
        for step in range(begin, self.config.steps):
            clock = Clock()
            rollout = self.rollouts.of_step(self.questions, self.config.batch, step)
            clock.lap("rollout")
            experience = collect(rollout, self.players, self.config, self.kl.coefficient, self.ranks, self.micro_batch, self.running)
            clock.lap("experience")
            moved = self.update(rollout, experience, step)
            clock.lap("update")
            line = self.watch.report(step + 1, rollout, experience, moved, self.players, self.kl.coefficient, clock.seconds)
            if step >= self.config.critic_warmup:
                self.kl.adapt(line["kl"], self.config.batch)
                self.keeping.follow(self.players.policy)
            if self._is_due(step + 1, self.config.evaluate_every):
                self.evaluate(step + 1)
            if self.config.refresh_reference and (step + 1) % self.config.refresh_reference == 0:
                self.players.refresh_reference()
            asked = self.ranks.any(stop())
            if asked or self._checkpoint_is_due(step + 1):
                self.save(step + 1, measured=not asked)
            if asked and step + 1 < self.config.steps:
                self.saver.finish()
                raise Interrupted(f"stopped after rollout {step + 1} of {self.config.steps}; the same command goes on")
        self.saver.finish()

    def update(self, rollout: Rollout, experience: Experience, step: int) -> Moved:
        """The updates of one rollout."""
        trouble = self.trouble
        if trouble is None:
            return Update(self.players, experience, self.config, self.ranks, self.micro_batch, self.mix).run(self.seed, step)

        def met(error: NotFiniteError, rows: list[int], minibatch: int) -> None:
            self.saver.finish()
            trouble.meet(
                step + 1,
                str(error),
                answers_told(trouble, rollout, rows, step + 1, minibatch),
                part=minibatch,
                may_skip=self.players.policy.may_skip,
            )

        for player in (self.players.policy, self.players.critic):
            player.lowered = trouble.factor(step)
        return Update(self.players, experience, self.config, self.ranks, self.micro_batch, self.mix, met).run(self.seed, step)

    def evaluate(self, step: int) -> None:
        """Look at the policy as it would be left now, and remember it if it is the best."""
        with self.keeping.shown(self.players.policy):
            self.keeping.offer(step, self.watch.evaluate(step, self.players), self.players.policy)

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.config.steps

    @property
    def _every(self) -> int:
        return self.saver.settings.every_steps or max(self.config.steps // 5, 1)

    def _checkpoint_is_due(self, step: int) -> bool:
        return self.ranks.any(self.saver.is_due()) or self._is_due(step, self._every)

    def save(self, step: int, *, measured: bool = True) -> None:
        """Seal a checkpoint of everything that the next step depends on; `measured`: by its own evaluation, where the best one is kept."""
        if measured and self.saver.settings.keep_best and self.watch.score(step) is None:
            with self.keeping.shown(self.players.policy):  # not offered: which policy is left does not depend on how often it is saved
                self.watch.evaluate(step, self.players)
        self.saver.save(step, lambda partial: self._write(partial, step), self.watch.score(step))

    def _write(self, partial: Path, step: int) -> None:
        for player in (self.players.policy, self.players.critic):
            player.save(partial)
        if self.ranks.first or self.players.in_shards:
            state = {"step": step, "coefficient": self.kl.coefficient, "told": self.watch.told, **self.players.state()}
            state |= {"keeping": self.keeping.state(), "running": asdict(self.running) if self.running else None}
            torch.save(state, partial / self._file)

    @property
    def _file(self) -> str:
        return f"ppo-{self.ranks.rank}.pt" if self.players.in_shards else "ppo.pt"

    def resume(self) -> int:
        """Take over the newest whole checkpoint; the number of steps that are done."""
        newest = self.saver.newest()
        self.saver.check_room(self.players.policy.size, every=self._every, steps=self.config.steps)
        if newest is None:
            self.watch.rewind(-1)
            return 0
        if (note := checkpoints.check_ground(newest, self.saver.ground)) is not None:
            print(note, flush=True)
        state = torch.load(newest / self._file, weights_only=True, map_location="cpu")
        if state["step"] != checkpoints.step_of(newest):
            raise StageError(f"{newest} holds step {state['step']}; delete it to go on from the one before")
        for player in (self.players.policy, self.players.critic):
            player.restore(newest)
        self.players.load(state)
        self.kl.coefficient = state["coefficient"]
        self.keeping.load(state["keeping"])
        self.running = RunningMoments(**state["running"]) if self.running else None
        self.watch.rewind(state["step"], state["told"])
        print(f"resumed after rollout {state['step']} of {self.config.steps}", flush=True)
        return int(state["step"])
