"""What passes between the orchestrator and a stage process: the job, the result, and what an artifact says of itself. Torch-free.

A stage is `python -m stages job.json`. It exits with 0 (done; `result.json` written), 1 (failed), 2 (its data or settings are wrong:
one sentence on the last line of its output), 75 (rolled back after a divergence: the same command goes on from the last checkpoint with a
lower learning rate) or 130 (interrupted after a checkpoint; the same command goes on).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from data.config import Spec

ArtifactKind = Literal["dataset", "tokenizer", "causal-lm", "reward-model", "report"]

DONE, FAILED, WRONG_INPUT, HELD, AGAIN, INTERRUPTED = 0, 1, 2, 3, 75, 130
TOKENS = "tokens"
"""Folder of the run directory in which tokenised data lie, shared by its stages; in a stage's folder, links to those that it has read."""

STOP = "stop"
"""File in an attempt's folder by which a stage on several nodes is asked for a checkpoint: signals do not reach other machines."""

FP16_AND_ZERO = (
    "found fp16, which is not possible under ZeRO: DeepSpeed 0.19 clips gradients before it takes the loss scale off them, lets each process decide "
    "by its own shard whether a step is left out, and keeps the scale in no checkpoint; set hardware.zero to 0, or hardware.precision to bf16 or fp32"
)
"""Read in its `runtime/zero/stage_1_and_2.py` and `stage3.py`."""


class StageError(Exception):
    """The stage cannot go on; printed as one sentence, without a traceback. Exit code 1."""


class Offload(Spec):
    """What ZeRO keeps outside the GPUs' memory: much smaller there, and slower."""

    optimizer: Literal["cpu", "nvme"] | None = None
    """Optimizer state, and its step: in the node's memory (from ZeRO-1 on), or on its disk (ZeRO-3)."""
    parameters: Literal["cpu", "nvme"] | None = None
    """Weights that no layer uses now, likewise; ZeRO-3 alone can."""
    folder: str | None = None
    """Folder on a fast local disk, for `nvme`."""


class Slurm(Spec):
    """What `pipeline run --slurm` asks of the cluster; nodes and GPUs are those of `hardware`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = Field(None, pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")
    """Longest time of the job, as Slurm writes it: minutes, `hours:minutes:seconds` or `days-hours:minutes:seconds`. The job comes again until the run is done."""
    cpus: int | None = Field(None, gt=0)
    """CPU cores of each node; the partition's default if left out."""
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?$")
    """Memory of each node, such as `200G`; the partition's default if left out."""
    warning: int = Field(300, gt=0)
    """Seconds before the end of its time at which the job is told to write a checkpoint and to queue again."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as `--constraint=h100`."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the run, such as `module load cuda`."""


class Hardware(Spec):
    """How a run is carried out. Never part of a stage's identity."""

    gpus: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """CUDA devices to use on each node; `auto` takes all there are, or with `zero: auto` as many as can share a step evenly, and 0 the CPU."""
    processes: int | None = Field(None, gt=0)
    """Processes on a CPU-only node (gloo); on GPUs there is one a device."""
    nodes: int | None = Field(None, gt=0)
    """Machines that share a stage's work; as many as `hosts` names, or that a job of Slurm is to ask for."""
    hosts: str | tuple[str, ...] = ()
    """Names or addresses of the nodes, the first one where they meet; or a file with one a line (`gpu1`, or `gpu1 slots=8` as MPI has it)."""
    reach: Literal["ssh", "srun", "follow"] = "ssh"
    """What starts the other nodes' processes: ssh; srun within a job of Slurm; or each of them itself, by `python -m pipeline.nodes follow RUN HOST`."""
    port: int = Field(29400, gt=0, lt=65536)
    """Of the first node, where the nodes meet."""
    zero: Literal[0, 1, 2, 3, "auto"] = "auto"
    """DeepSpeed ZeRO stage 0 to 3; `auto` takes what `pipeline plan` chooses for the GPUs that are here, with its micro-batch, recomputation and offload
    where those are left open. Where sizes cannot be told it is 2 if several GPUs train what can be sharded and DeepSpeed is installed, else 0."""
    offload: Offload = Offload()
    """What ZeRO keeps outside the GPUs' memory."""
    deepspeed: str | None = None
    """JSON file of DeepSpeed's own settings, for all that the recipe does not decide."""
    slurm: Slurm = Slurm()
    """What `pipeline run --slurm` asks for."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass; `auto` is bf16 where the device does it fast, fp16 on a GPU that has fast fp16 alone (V100, T4; not under ZeRO),
    else fp32. Stored weights stay fp32 while training; in fp16 losses are scaled."""
    kernels: Literal["plain", "compile", "liger"] = "plain"
    """`compile` has torch compile MLPs and norms; `liger` takes Liger's kernels for norms, rotary positions and MLPs (CUDA, package liger-kernel)."""
    micro_batch: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Rows a forward pass takes at most; gradient accumulation follows from the stage's batch, and the result does not depend on it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    step_timeout: float | None = Field(1800.0, gt=0)
    """Seconds without a sign of life (a step, a forward pass, a token) after which a process is taken to hang: it writes the stacks of its threads and
    ends; never if null."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of a process; the machine's cores over the processes if left out."""


class Checkpoints(Spec):
    """How often a stage can be resumed from, and what is kept. Never part of a stage's identity."""

    every_steps: int | None = Field(None, gt=0)
    """Optimizer steps (for PPO: rollouts) between checkpoints; five checkpoints over the stage if left out."""
    every_minutes: float | None = Field(15.0, gt=0)
    """A checkpoint also comes after so many minutes without one, but never so often that saving costs more than 2 % of the time; no if null."""
    keep_last: int = Field(2, gt=0)
    """Whole checkpoints kept; older ones are deleted once a newer one is sealed."""
    keep_every: int | None = Field(None, gt=0)
    """Checkpoints of steps that are a multiple of this are kept for good."""
    keep_best: bool = False
    """Also keep the one with the best held-out number (loss, pair accuracy or reward), measured at each checkpoint; `checkpoints/best` links to it."""


class Divergence(Spec):
    """What follows a loss or gradient that is not finite. Never part of a stage's identity, so that a stage that stopped can go on another way."""

    action: Literal["stop", "skip", "rollback"] = "stop"
    """`skip` leaves the weights as they are for that batch; `rollback` goes on from the last checkpoint with a lower learning rate."""
    limit: int = Field(3, gt=0)
    """Batches skipped, or times rolled back, in one stage; then it stops."""
    factor: float = Field(0.5, gt=0, lt=1)
    """Learning rate after a roll back, as a multiple of the one before."""
    spike: float | None = Field(6.0, gt=0)
    """A logged loss so many standard deviations above the mean of the 128 before it is flagged; none if null."""


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]


class Input(Spec):
    """One resolved reference: an artifact that an earlier stage, a local folder or the Hub holds."""

    reference: str
    kind: ArtifactKind
    path: Path
    """Folder that holds the artifact; absolute."""
    fingerprint: str
    digest: str | None = None
    """Of the files that an earlier stage left: done again, it may leave others under the same fingerprint."""
    trusted: bool = False
    """Whether Python that the model brings along may run: the recipe's `trust_remote_code` names where it comes from."""


class Job(Spec):
    """All a stage process is told. Written to `job.json` before it starts."""

    stage: str
    kind: str
    folder: Path
    """The stage's folder in the run directory; absolute."""
    attempt: int = 1
    seed: int
    config: dict[str, Any]
    """The stage's settings, as its `config.py` validates them."""
    inputs: dict[str, Input] = {}
    """By dotted field path: `model`, `models.0`, `rewards.0.model`."""
    files: dict[str, list[Path]] = {}
    """Resolved files of every local data source, absolute, by dotted field path: `data.0`, `tasks.1.prompts.0`."""
    hardware: Hardware = Hardware()
    checkpoints: Checkpoints = Checkpoints()
    track: tuple[Tracker, ...] = ()
    """Where the stage's numbers go beside `metrics.jsonl`."""
    divergence: Divergence = Divergence()

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"


class Table(Spec):
    """A small table for people and programs alike."""

    title: str
    columns: list[str]
    rows: list[list[str | float | None]]


class Result(Spec):
    """What a stage says back, in `result.json`."""

    status: Literal["done", "interrupted"] = "done"
    steps: int = 0
    """Optimizer steps taken in all attempts."""
    metrics: dict[str, float] = {}
    """Final numbers by their standard names; what a recipe's `require` and the report read."""
    tables: list[Table] = []
    notes: list[str] = []
    """What was decided or noticed, a sentence each: shown after the stage."""


class Probe(Spec):
    """What a model says to a few fixed tokens: enough to tell whether a stage begins where another one ended, without a second model in memory."""

    ids: list[list[int]]
    hidden: list[float]
    """Of each token's last hidden state, one fixed projection."""
    outputs: list[float]
    """Logits of the next tokens, or scores."""


class Adapters(Spec):
    """Adapters that an artifact holds apart from their base. Where the base lies is in their `adapter_config.json`, as peft has it."""

    names: list[str]
    """Oldest first; all of them act. A single one lies in the artifact itself, several each in a folder of its name."""
    settings: list[dict[str, Any]]
    """Of each, as its stage's `adapter`; the last one's `hand_over` says how the next stage takes them."""
    base_digest: str
    """SHA-256 of the base's weights."""
    base_tokenizer_digest: str | None = None


class Artifact(Spec):
    """What an artifact says of itself, in `artifact.json` beside its files; the plan checks hand-offs by it."""

    kind: ArtifactKind
    tokenizer_digest: str | None = None
    """SHA-256 of tokenizer.json's content, so that a retrained tokenizer is never put under an old model."""
    template_digest: str | None = None
    """SHA-256 of the chat template."""
    vocab_size: int | None = None
    context_length: int | None = None
    parameters: int | None = None
    trainable_parameters: int | None = None
    reward_mean: float | None = None
    """Mean reward over held-out answers; rewards are standardised by it in PPO."""
    reward_std: float | None = None
    reload_difference: float | None = None
    """Largest absolute difference of logits or scores between the model in memory and the artifact loaded as a stranger would."""
    merge_difference: float | None = None
    """Largest absolute difference of the same before and after adapters were merged."""
    probe: Probe | None = None
    adapters: Adapters | None = None
    """Where they are not merged."""
