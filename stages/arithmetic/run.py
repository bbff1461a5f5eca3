"""Arithmetic word problems as a data set."""

from pathlib import Path

from data.arithmetic import Spec, write
from stages.arithmetic.config import Arithmetic
from stages.contract import Artifact, Hardware, Job, Result, Table
from stages.core.publishing import publish


def run(job: Job, config: Arithmetic, hardware: Hardware) -> Result:
    """Write the problems that the run's seed determines; no torch is needed for it."""
    counts: dict[str, int] = {}
    spec = Spec(seed=job.seed, **config.model_dump(exclude={"kind", "require"}))

    def files(partial: Path) -> Artifact:
        counts.update(write(partial, spec))
        return Artifact(kind="dataset")

    publish(job.artifact, files)
    table = Table(title="files", columns=["file", "rows"], rows=[[name, float(count)] for name, count in counts.items()])
    return Result(metrics={"rows": float(sum(counts.values()))}, tables=[table])
