"""What of a run of PPO lies in a checkpoint, and the way back.

Weights, optimizers and a few running numbers; of randomness nothing, because it is counted. Checkpoints lie between rollouts, where nothing is
half-done.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.contract import StageError
from stages.core import checkpoints
from stages.core.interrupt import Interrupted
from stages.ppo.algorithm import RunningMoments

if TYPE_CHECKING:
    from stages.ppo.loop import Training


def resume(run: "Training") -> int:
    """Take over the newest whole checkpoint; the number of rollouts that are done. Raises StageError if it is not what its name says."""
    newest = run.saver.newest()
    run.saver.check_room(run.players.policy.size, every=_every(run), steps=run.config.steps)
    if newest is None:
        run.watch.rewind(-1)
        return 0
    if (note := checkpoints.check_ground(newest, run.saver.ground)) is not None:
        print(note, flush=True)
    state = torch.load(newest / _file(run), weights_only=True, map_location="cpu")
    if state["step"] != checkpoints.step_of(newest):
        raise StageError(f"{newest} holds step {state['step']}; delete it to go on from the one before")
    for player in (run.players.policy, run.players.critic):
        player.restore(newest)
    run.players.load(state)
    run.kl.coefficient = state["coefficient"]
    run.keeping.load(state["keeping"])
    run.running = RunningMoments(**state["running"]) if run.running else None
    run.watch.rewind(state["step"], state["told"])
    print(f"resumed after rollout {state['step']} of {run.config.steps}", flush=True)
    return int(state["step"])


def rest(run: "Training", step: int, *, asked: bool) -> None:
    """Between two rollouts, after `step` of them: save where it is due; where it is asked for, save and raise Interrupted."""
    if asked or _is_due(run, step):
        save(run, step, measured=not asked)
    if asked and step < run.config.steps:
        run.saver.finish()
        raise Interrupted(f"stopped after rollout {step} of {run.config.steps}; the same command goes on")


def save(run: "Training", step: int, *, measured: bool = True) -> None:
    """Seal a checkpoint of everything that the next rollout depends on; `measured`: by its own evaluation, where the best one is kept."""
    if measured and run.saver.settings.keep_best and run.watch.score(step) is None:
        with run.keeping.shown(run.players.policy):  # not offered: which policy is left does not depend on how often it is saved
            run.watch.evaluate(step, run.players)
    run.saver.save(step, lambda partial: _write(run, partial, step), run.watch.score(step))


def _every(run: "Training") -> int:
    return run.saver.settings.every_steps or max(run.config.steps // 5, 1)


def _is_due(run: "Training", step: int) -> bool:
    return run.ranks.any(run.saver.is_due()) or step % _every(run) == 0 or step == run.config.steps


def _write(run: "Training", partial: Path, step: int) -> None:
    for player in (run.players.policy, run.players.critic):
        player.save(partial)
    if run.ranks.first or run.players.in_shards:
        state = {"step": step, "coefficient": run.kl.coefficient, "told": run.watch.told, **run.players.state()}
        state |= {"keeping": run.keeping.state(), "running": asdict(run.running) if run.running else None}
        torch.save(state, partial / _file(run))


def _file(run: "Training") -> str:
    return f"ppo-{run.ranks.rank}.pt" if run.players.in_shards else "ppo.pt"
