"""Proximal policy optimization, as it is told in the papers: answer, judge, estimate advantages, update, again.

Randomness is counted (from seed, step and sample), so that a resumed run goes on bit for bit; `resuming` says from what.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stages.core.checkpoints import Saver
from stages.core.divergence import Trouble
from stages.ppo.algorithm import KLController, RunningMoments
from stages.ppo.config import PPO
from stages.ppo.experience import Experience, collect
from stages.ppo.keeping import Keeping
from stages.ppo.mix import Mix
from stages.ppo.players import Players
from stages.ppo.ranks import Ranks
from stages.ppo.resuming import rest, resume
from stages.ppo.rollout import Question, Rollout, Rollouts
from stages.ppo.trouble import watched
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
        begin = resume(self)
        if begin == 0:
            self.evaluate(0)
        for step in range(begin, self.config.steps):
            clock = Clock()
            rollout = self.rollouts.of_step(self.questions, self.config.batch, step)
            clock.lap("rollout")
            experience = self.judge(rollout)
            clock.lap("experience")
            moved = self.update(rollout, experience, step)
            clock.lap("update")
            line = self.watch.report(step + 1, rollout, experience, moved, self.players, self.kl.coefficient, clock.seconds)
            if step >= self.config.critic_warmup:
                self.kl.adapt(line["kl"], self.config.batch)
                self.keeping.follow(self.players.policy)
            if (step + 1) % self.config.evaluate_every == 0 or step + 1 == self.config.steps:
                self.evaluate(step + 1)
            if self.config.refresh_reference and (step + 1) % self.config.refresh_reference == 0:
                self.players.refresh_reference()
            rest(self, step + 1, asked=self.ranks.any(stop()))
        self.saver.finish()

    def judge(self, rollout: Rollout) -> Experience:
        """Log-probabilities, values, rewards less KL, advantages and returns of a rollout's answers."""
        return collect(rollout, self.players, self.config, self.kl.coefficient, self.ranks, self.micro_batch, self.running)

    def update(self, rollout: Rollout, experience: Experience, step: int) -> Moved:
        """The updates of one rollout."""
        met = watched(self.trouble, self.players, rollout, step, self.saver)
        return Update(self.players, experience, self.config, self.ranks, self.micro_batch, self.mix, met).run(self.seed, step)

    def evaluate(self, step: int) -> None:
        """Look at the policy as it would be left now, and remember it if it is the best."""
        with self.keeping.shown(self.players.policy):
            self.keeping.offer(step, self.watch.evaluate(step, self.players), self.players.policy)
