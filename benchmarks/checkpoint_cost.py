"""What checkpoints cost a run: the share of its training time in which training waited for them, and in which they were sealed beside it.

    pipeline run recipes/demo.yaml
    python benchmarks/checkpoint_cost.py runs/demo

Reads what every run leaves: `checkpoints.jsonl` (a line for each checkpoint) and the seconds of `metrics.jsonl`. Exit code 1 if training waited
for more than `--most` percent of its time.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/checkpoint_cost.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--most", type=float, default=2.0, help="percent that is allowed (default: 2)")
    options = parser.parse_args(arguments)
    rows = [
        cost(folder) for folder in sorted(options.run.iterdir()) if (folder / "checkpoints.jsonl").is_file() and not folder.is_symlink()
    ]
    if not rows:
        print(f"no stage of {options.run} wrote checkpoints", file=sys.stderr)
        return 2
    total = {name: sum(row[name] for row in rows) for name in ("checkpoints", "mib", "training", "waited", "sealed")}
    print("| stage | checkpoints | MiB written | training s | waited s | waited % | sealed beside it, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in [*rows, {"stage": "all", **total}]:
        share = 100 * row["waited"] / row["training"]
        print(
            f"| {row['stage']} | {row['checkpoints']} | {row['mib']:.1f} | {row['training']:.1f} | {row['waited']:.2f} | {share:.2f} | {row['sealed']:.2f} |"
        )
    return int(100 * total["waited"] > options.most * total["training"])


def cost(folder: Path) -> dict[str, Any]:
    """Numbers of one stage."""
    saved = lines(folder / "checkpoints.jsonl")
    return {
        "stage": folder.name.rpartition("-")[0],
        "checkpoints": len(saved),
        "mib": sum(line["bytes"] for line in saved) / 2**20,
        "training": lines(folder / "metrics.jsonl")[-1]["seconds"],
        "waited": sum(line["blocked_seconds"] for line in saved),
        "sealed": sum(line["overlapped_seconds"] for line in saved),
    }


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
