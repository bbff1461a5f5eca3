"""What happens at a gradient that is not finite: it is told with the answers that it came from, and skipped, rolled back or stopped at."""

from collections.abc import Callable, Sequence

from stages.core.checkpoints import Saver
from stages.core.divergence import Trouble
from stages.ppo.players import NotFiniteError, Players
from stages.ppo.rollout import Rollout

Met = Callable[[NotFiniteError, list[int], int], None]
"""Is told the error, the rows of the rollout and the number of the minibatch; returns where that minibatch is to be left out."""


def watched(trouble: Trouble | None, players: Players, rollout: Rollout, step: int, saver: Saver) -> Met | None:
    """Lower the players' learning rates by what roll backs have asked for so far; what the updates of `rollout` call in trouble."""
    if trouble is None:
        return None
    for player in (players.policy, players.critic):
        player.lowered = trouble.factor(step)

    def met(error: NotFiniteError, rows: list[int], minibatch: int) -> None:
        saver.finish()
        told = answers_told(trouble, rollout, rows, step + 1, minibatch)
        trouble.meet(step + 1, str(error), told, part=minibatch, may_skip=players.policy.may_skip)

    return met


def answers_told(trouble: Trouble, rollout: Rollout, rows: Sequence[int], step: int, minibatch: int) -> str:
    """This process's answers of a minibatch in words; they are written beside the attempt's log with their prompts and rewards."""
    held = [
        {
            "sample": rollout.samples[row],
            "prompt_ids": rollout.prompt_ids[row],
            "text": rollout.texts[row],
            "reward": str(rollout.scores.total[row]),
        }
        for row in rows
    ]
    file = trouble.keep(f"diverged-{step}-{minibatch}.json", held)
    few = ", ".join(str(rollout.samples[row]) for row in list(rows)[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return f"minibatch {minibatch} (answers {few} of the rollout; their text is in {file})"
