"""The embedded world as a data set."""

from pathlib import Path

from data.world import Spec, write
from stages.contract import Artifact, Hardware, Job, Result, Table
from stages.core.publishing import publish
from stages.world.config import World


def run(job: Job, config: World, hardware: Hardware) -> Result:
    """Write the world that the run's seed determines; no torch is needed for it."""
    counts: dict[str, int] = {}

    def files(partial: Path) -> Artifact:
        counts.update(write(partial, Spec(seed=job.seed, **config.sizes())))
        return Artifact(kind="dataset")

    publish(job.artifact, files)
    table = Table(title="files", columns=["file", "rows"], rows=[[name, float(count)] for name, count in counts.items()])
    return Result(metrics={"rows": float(sum(counts.values()))}, tables=[table])
