"""One stage: its rows, its work and its disk, for a machine and a setting."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.estimate import compute
from pipeline.estimate.machine import Machine
from pipeline.estimate.memory import FP32, Memory, Setting
from pipeline.estimate.memory import cache as cache_of
from pipeline.estimate.models import Held
from pipeline.estimate.phases import CACHED_AT_ONCE, READ_AT_ONCE, Rows, peak, phases
from stages.contract import Checkpoints
from stages.core.workload import AUTO_TOKENS, Unshared, Workload, divisor, unshared


@dataclass(frozen=True)
class Stage:
    """A stage as a plan sees it."""

    name: str
    kind: str
    work: Workload
    held: tuple[Held, ...]
    data_tokens: float | None = None
    """Tokens of the data that it passes over, once; None where that is not known."""
    prompts: float | None = None
    """Tokens of a prompt, where the data tell."""

    @property
    def first(self) -> Held:
        return self.held[0]

    @property
    def context(self) -> int:
        """Tokens of a row at most."""
        own = self.first.shape.context
        return min(self.work.longest or own, own)

    @property
    def parameters(self) -> float:
        return sum(player.parameters for player in self.held)

    @property
    def trained(self) -> float:
        return sum(player.trained for player in self.held)

    @property
    def prompt(self) -> int:
        """Tokens of a prompt: as the data have them, or all that the context leaves."""
        room = self.context - self.work.answer
        return max(1, min(room, round(self.prompts) if self.prompts else room))

    @property
    def length(self) -> int:
        """Tokens of a row."""
        if self.work.rows == "answers" and self.work.answer:
            return self.prompt + self.work.answer
        return self.context

    @property
    def width(self) -> int:
        """Tokens that a row takes in a pass: a pair may hold two rows of the context's length."""
        return self.length * (2 if self.work.rows == "pairs" else 1)

    def per_step(self) -> int:
        """Rows of an optimizer step (or of a rollout), over all processes."""
        return self.work.rows_in_step(self.context)

    @property
    def tokens(self) -> float | None:
        """Tokens that are learned from or read, in all."""
        work = self.work
        if work.rows == "answers":
            return self.answers * self.length if self.answers is not None else None
        if work.tokens is not None:
            return float(work.tokens)
        return None if self.data_tokens is None or work.epochs is None else self.data_tokens * work.epochs

    @property
    def answers(self) -> float | None:
        """Answers drawn in all."""
        return float(self.work.steps * self.work.batch) if self.work.steps is not None else None


def most_rows(stage: Stage, setting: Setting) -> int:
    """Rows of a forward pass where the recipe leaves it open."""
    own = max(1, stage.per_step() // setting.processes)
    if stage.work.rows == "answers":
        return min(own, max(1, CACHED_AT_ONCE // stage.length))
    tokens = AUTO_TOKENS[setting.device]
    return divisor(own, max(1, tokens // stage.width))


def needed(stage: Stage, setting: Setting, machine: Machine) -> tuple[str, Memory]:
    """The phase that needs most memory, and what it needs."""
    return peak(phases(stage.work, stage.held, rows_of(stage, setting), setting, machine.memory))


def rows_of(stage: Stage, setting: Setting) -> Rows:
    """What passes take at once."""
    length, own = stage.length, max(1, stage.per_step() // setting.processes)
    if stage.work.rows != "answers":
        return Rows(stage.context, (setting.rows or most_rows(stage, setting)) * stage.width)
    read = max(READ_AT_ONCE[setting.device], length) if setting.rows is None else setting.rows * length
    written = max(1, CACHED_AT_ONCE // length) if setting.rows is None else setting.rows
    minibatch = own // stage.work.minibatches or 1
    if stage.work.batch > 1:
        return Rows(length, min(read, minibatch * length), min(written, own), min(read, own * length))
    return Rows(length, read, written, read)


def model_flops(stage: Stage, *, checkpointing: bool = False) -> float | None:
    """FLOPs of all players over all tokens; recomputed ones count with `checkpointing` alone."""
    if stage.tokens is None:
        return None
    total = 0.0
    for player in stage.held:
        done, shape, length = player.player, player.shape, float(stage.length)
        each = done.reads * compute.forward(shape, length, "words" if player.head == "words" else "score")
        if done.updates and done.trunk:
            each += done.updates * 6.0 * player.trained
        elif done.updates:
            kind = "words" if player.head == "words" else "score"
            each += done.updates * compute.learning(shape, length, kind, adapter=player.adapter, checkpointing=checkpointing)  # type: ignore[arg-type]
        total += each * stage.tokens
        if done.writes:
            total += compute.forward(shape, length) * stage.tokens
    return total


def least_seconds(stage: Stage, setting: Setting) -> float:
    """Seconds that the stage's steps take at least, one after the other on each process, whatever their arithmetic; drawing answers has its own."""
    own, rows = max(1, stage.per_step() // setting.processes), rows_of(stage, setting)
    in_pass = max(1, rows.tokens // stage.width)
    if stage.work.rows == "answers":
        rollouts, each = stage.work.steps or 0, own // stage.work.minibatches or 1
        steps = float(rollouts * stage.work.minibatches)
    else:  # of pairs only the tokens are known: were all of them as long as they may be, there would be as few steps as this
        rollouts, each = 0, own
        steps = max(1.0, (stage.tokens or 0.0) // (stage.per_step() * stage.width))
    found = 0.0
    for player in stage.held:
        layers = 0 if player.player.trunk else player.shape.layers
        found += steps * player.player.updates * compute.least(layers, -(-each // in_pass))
        found += rollouts * player.player.reads * compute.LAYER / 3 * layers  # a forward pass is a third, of all answers at once at best
    return found


def hours(stage: Stage, setting: Setting, machine: Machine) -> tuple[float, float] | None:
    """Hours of the stage, and those of drawing answers among them; None where speed or work are not known."""
    total = model_flops(stage, checkpointing=setting.checkpointing)
    if total is None or machine.gpu is None:
        return None
    peak_flops = machine.gpu.peak(setting.compute)
    writer = next((player for player in stage.held if player.player.writes), None)
    if writer is None or stage.answers is None:
        return max(compute.seconds(total, peak_flops, machine.mfu, setting.processes), least_seconds(stage, setting)) / compute.HOUR, 0.0
    total -= compute.forward(writer.shape, float(stage.length)) * (stage.tokens or 0.0)
    rollouts = stage.work.steps or 1
    weights = float(setting.compute) * (writer.shape.linear + writer.shape.embedding)
    if writer.quantised:
        weights -= writer.quantised * (setting.compute - 0.5)
    own = max(1, stage.work.batch // setting.processes)
    at_once = rows_of(stage, setting).written
    writing = compute.Writing(own, stage.prompt, stage.work.answer, at_once, weights, cache_of(writer.shape))
    drawn = rollouts * compute.writing_seconds(writer.shape, writing, machine.gpu, setting.compute, machine.mfu)
    learned = max(compute.seconds(total, peak_flops, machine.mfu, setting.processes), least_seconds(stage, setting))
    return (learned + drawn) / compute.HOUR, drawn / compute.HOUR


@dataclass(frozen=True)
class Disk:
    """Bytes on disk."""

    checkpoint: float
    kept: int
    """Checkpoints at once, the one that is being written included."""
    artifact: float

    @property
    def total(self) -> float:
        return self.checkpoint * self.kept + self.artifact


def disk(stage: Stage, setting: Setting, settings: Checkpoints) -> Disk:
    """Checkpoints and the artifact: fp32 weights, two moments of each that trains, and DeepSpeed's master copy (`stages.core.training`, `stages.ppo`)."""
    learners = [player for player in stage.held if player.trained]
    moments = 3 * FP32 if setting.zero else 2 * FP32
    size = sum(
        FP32 * (player.trained if player.adapter is not None else player.parameters) + moments * player.trained for player in learners
    )
    size += FP32 * stage.work.copies * stage.first.trained
    first = stage.first
    kept_apart = first.player.adapter is not None and first.player.adapter.hand_over != "merge"
    artifact = FP32 * (first.trained if kept_apart else first.parameters - (first.adapter or 0)) if learners else 0.0
    steps = total_steps(stage)
    for_good = int(steps // settings.keep_every) if settings.keep_every and steps else 0
    return Disk(size, settings.keep_last + 1 + for_good + settings.keep_best if learners else 0, artifact)


def total_steps(stage: Stage) -> float | None:
    """Optimizer steps (rollouts)."""
    if stage.work.steps is not None:
        return float(stage.work.steps)
    if stage.tokens is None:
        return None
    if stage.work.rows == "packed":
        return max(1.0, stage.tokens // (stage.per_step() * stage.context))
    return None


def fits(memory: Memory, machine: Machine) -> bool:
    return memory.total <= machine.usable


def share(stage: Stage, processes: int) -> Unshared | None:
    """Why so many processes cannot share the stage, with the nearest numbers that can; None if they can."""
    return next(iter(unshared(stage.work, processes, stage.context)), None)


def players_told(held: Sequence[Held]) -> str:
    """The players in words."""
    return ", ".join(f"{player.player.name} on {player.player.on}" if player.player.on else player.player.name for player in held)
