"""One rollout's updates: minibatch by minibatch, the policy steps, then the critic.

A loss is a sum over real tokens divided by the count of the whole minibatch over all processes, so that neither micro-batches nor processes
change it. Each player has its own backward pass, optimizer and clip.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.core.logprobs import Batch, batch_of, passes
from stages.core.seeds import seed_for
from stages.core.watchdog import beat
from stages.ppo.algorithm import PolicyLoss, kl_estimate, policy_loss, token_weights, value_loss
from stages.ppo.config import PPO
from stages.ppo.experience import Experience
from stages.ppo.mix import Mix
from stages.ppo.players import NotFiniteError, OverflowedError, Players
from stages.ppo.ranks import Ranks
from stages.ppo.sharing import acting


@dataclass
class Moved:
    """What an update did, over all processes."""

    means: dict[str, float] = field(default_factory=dict)
    """Means over the minibatches that were taken, by name."""
    largest_ratio: float = 1.0
    smallest_ratio: float = 1.0
    first_ratio_error: float = 0.0
    """Largest |ratio - 1| of the first minibatch: 0 up to rounding, unless sampler and trainer, or dropout, are wrong."""
    stopped: bool = False
    """Whether `stop_kl` ended the policy's update early."""


@dataclass(frozen=True)
class Part:
    """A micro-batch of a minibatch: inputs of a forward pass, and the (N) numbers of its real tokens."""

    batch: Batch
    weights_N: Tensor
    old_logp_N: Tensor
    reference_N: Tensor
    advantages_N: Tensor
    old_values_N: Tensor
    returns_N: Tensor


class Update:
    """The updates of one rollout."""

    def __init__(
        self,
        players: Players,
        experience: Experience,
        config: PPO,
        ranks: Ranks,
        micro_batch: int | None = None,
        mix: Mix | None = None,
        trouble: Callable[[NotFiniteError, list[int], int], None] | None = None,
    ) -> None:
        """`trouble(error, rows, minibatch)` is told of a gradient that is not finite and returns where the minibatch is to be left out."""
        self.players, self.experience, self.config, self.ranks = players, experience, config, ranks
        self.micro_batch, self.mix, self.trouble = micro_batch, mix, trouble
        self.device = next(players.policy.module.parameters()).device
        self.nothing = torch.zeros((), device=self.device)
        self.sums: dict[str, Tensor] = {}
        self.norms: dict[str, list[float]] = {"policy_grad_norm": [], "critic_grad_norm": []}
        self.moved = Moved()

    def run(self, seed: int, step: int) -> Moved:
        """All epochs and minibatches. In the critic's warm-up the policy does not move."""
        planned = self.config.epochs * self.config.minibatches
        begun = self.players.policy.taken
        for epoch in range(self.config.epochs):
            for number, rows in enumerate(self.minibatches(seed_for(seed, "minibatches", step, epoch))):
                self._minibatch(rows, epoch * self.config.minibatches + number, warm=step < self.config.critic_warmup)
        if self.moved.stopped:
            self.players.policy.skip(planned - (self.players.policy.taken - begun))
        return self._summary()

    def _minibatch(self, rows: list[int], number: int, *, warm: bool) -> None:
        """A step of each player, or none from a gradient that is not finite on."""
        parts, planned = list(self._parts(rows)), self.players.critic.taken + 1
        try:
            if not warm and not self.moved.stopped:
                self._counted(self._policy_step, parts)
            self._counted(self._critic_step, parts)
        except NotFiniteError as error:
            if self.trouble is None:
                raise
            self.trouble(error, rows, number)
            self.players.critic.skip(planned - self.players.critic.taken)

    def _counted(self, step: Callable[[list[Part]], None], parts: list[Part]) -> None:
        """A player's step; where it is not taken its numbers, which are seldom finite, do not count. An overflow of fp16 is no trouble."""
        before = dict(self.sums)
        try:
            step(parts)
        except OverflowedError:
            self.sums = before
        except NotFiniteError:
            self.sums = before
            raise

    def minibatches(self, seed: int) -> list[list[int]]:
        """This process's rows of each minibatch. The whole rollout is permuted, so that a minibatch holds the same answers on any number of processes."""
        order = torch.randperm(self.config.batch, generator=torch.Generator().manual_seed(seed)).tolist()
        row_of = {sample: row for row, sample in enumerate(self.experience.samples)}
        size = self.config.batch // self.config.minibatches
        return [[row_of[i] for i in order[start : start + size] if i in row_of] for start in range(0, len(order), size)]

    def _parts(self, rows: list[int]) -> Iterator[Part]:
        known = self.experience
        mine = torch.tensor([float(sum(len(known.completions[i]) for i in rows)), float(len(rows))], dtype=torch.float64)
        tokens, answers = self.ranks.sum(mine).tolist()
        lengths = [len(known.prompts[i]) + len(known.completions[i]) for i in rows]
        cuts = passes(lengths, self.micro_batch, self.device)
        for number in range(self.ranks.most(len(cuts))):
            # Where the other processes have more: an answer without weight, only to be there.
            part = [rows[i] for i in cuts[number]] if number < len(cuts) else [0]
            mask_BT = known.mask_BT[part]
            columns = (known.logp_BT, known.reference_BT, known.advantages_BT, known.values_BT, known.returns_BT)
            yield Part(
                batch_of([known.prompts[i] for i in part], [known.completions[i] for i in part], self.device),
                token_weights(mask_BT, tokens, answers, self.config.aggregation).to(self.device) * (number < len(cuts)),
                *(column_BT[part][mask_BT].to(self.device) for column_BT in columns),
            )

    def _critic_step(self, parts: list[Part]) -> None:
        for part in parts:
            beat()
            with acting(self.players.critic.module):
                values_N = self.players.critic(part.batch)
                found = value_loss(values_N, part.old_values_N, part.returns_N, part.weights_N, clip=self.config.value_clip)
                self.players.critic.backward(found.loss)
            self._add(value_loss=found.loss, value_clip_fraction=(found.clipped_N * part.weights_N).sum())
        self.norms["critic_grad_norm"].append(self.players.critic.step())

    def _policy_step(self, parts: list[Part]) -> None:
        """A step of the policy, unless `stop_kl` finds that it has gone far enough from the one that drew the answers."""
        approximate_kl = torch.zeros(1, dtype=torch.float64)
        for part in parts:
            beat()
            loss, found = self._policy_loss(part)
            self.players.policy.backward(loss)
            part_kl = (found.approximate_kl_N * part.weights_N).sum()
            approximate_kl += part_kl.double().cpu()
            self._add(policy_loss=loss, clip_fraction=(found.clipped_N * part.weights_N).sum(), approximate_kl=part_kl)
            self._extremes(found.ratio_N[part.weights_N > 0])
        if self.config.stop_kl is not None and float(self.ranks.sum(approximate_kl)) > self.config.stop_kl:
            self.players.policy.forget()
            self.moved.stopped = True
            return
        if self.mix is not None:
            self._add(mix_loss=self.mix.backward(self.players.policy.taken, self.micro_batch))
        self.norms["policy_grad_norm"].append(self.players.policy.step())

    def _policy_loss(self, part: Part) -> tuple[Tensor, PolicyLoss]:
        config = self.config
        logp_N, entropy_N = self.players.policy(part.batch, with_entropy=config.entropy > 0)
        clip_high = config.clip if config.clip_high is None else config.clip_high
        found = policy_loss(
            logp_N,
            part.old_logp_N,
            part.advantages_N,
            part.weights_N,
            clip_low=config.clip,
            clip_high=clip_high,
            dual_clip=config.dual_clip,
        )
        loss = found.loss
        if config.kl.loss:
            loss = loss + config.kl.loss * (kl_estimate(logp_N, part.reference_N, config.kl.loss_estimator) * part.weights_N).sum()
        if entropy_N is not None:
            loss = loss - config.entropy * (entropy_N * part.weights_N).sum()
        return loss, found

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, self.nothing) + value.detach()

    def _extremes(self, ratio_N: Tensor) -> None:
        if not len(ratio_N):  # the process was only there
            return
        self.moved.largest_ratio = max(self.moved.largest_ratio, float(ratio_N.max()))
        self.moved.smallest_ratio = min(self.moved.smallest_ratio, float(ratio_N.min()))
        if not self.norms["policy_grad_norm"]:
            self.moved.first_ratio_error = max(self.moved.first_ratio_error, float((ratio_N - 1).abs().max()))

    def _summary(self) -> Moved:
        """Sums over processes become means over minibatches; a warm-up step has no numbers of the policy."""
        critic_steps, policy_steps = (len(self.norms[f"{name}_grad_norm"]) for name in ("critic", "policy"))
        tried = policy_steps + self.moved.stopped
        counts = {"policy_loss": tried, "clip_fraction": tried, "approximate_kl": tried, "mix_loss": policy_steps if self.mix else 0}
        counts |= {"value_loss": critic_steps, "value_clip_fraction": critic_steps}
        # By what was counted together, not by what this process has: it may have had no row in any of these minibatches.
        names = [name for name, count in counts.items() if count]
        totals = self.ranks.sum(torch.stack([self.sums.get(name, self.nothing).double() for name in names])).tolist() if names else []
        self.moved.means = {name: total / counts[name] for name, total in zip(names, totals, strict=True)}
        scaled = [player for player in (self.players.policy, self.players.critic) if player.scaler.is_enabled()]
        self.moved.means |= {f"{player.name}_loss_scale": player.scaler.get_scale() for player in scaled}
        self.moved.means |= {name: sum(norms) / len(norms) for name, norms in self.norms.items() if norms}
        return self.moved
