"""Run the demo recipe with several seeds and hold every stage to its bound.

    python benchmarks/demo_seeds.py --seeds 1 2 3 4 5

Each seed draws another world, another initialisation and other samples. Prints one row a seed, the mean with a t interval over seeds, and whether
each bound holds. Runs lie in `runs/demo-seed-N`, so a second call only reads them.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def run(recipe: Path, seed: int, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Final metrics of every stage, by stage name. Raises CalledProcessError if the pipeline fails."""
    name = f"{recipe.stem}-seed-{seed}"
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), f"name={name}", f"seed={seed}", *overrides]
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"seed {seed}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return {
        path.parent.name: json.loads(path.read_text())["metrics"]
        for path in sorted(Path("runs", name).glob("*/result.json"))
        if path.parent.is_symlink()
    }


def rows(stages: dict[str, dict[str, float]]) -> dict[str, tuple[float, bool]]:
    """The figures that the demo promises, and whether each is within its bound."""
    base, judge, exam = stages["base"], stages["judge"], stages["exam"]
    ratio = base["perplexity"] / base["perplexity_floor"]
    return {
        "perplexity / floor": (ratio, ratio <= 1.05),
        "chat correct": (exam["chat.correct"], exam["chat.correct"] >= 0.70),
        "judge accuracy": (judge["accuracy"], judge["oracle_accuracy"] - judge["accuracy"] <= 0.12),
        "judge oracle": (judge["oracle_accuracy"], True),
        "judge truth": (judge["accuracy_truth"], judge["accuracy_truth"] > 0.5),
        "length baseline": (judge["length_baseline"], judge["length_baseline"] < judge["accuracy"]),
        "chat good": (exam["chat.good"], True),
        "policy good": (exam["policy.good"], exam["policy.good"] >= 0.70),
        "policy KL": (exam["policy.kl"], exam["policy.kl"] <= 2.5),
        "policy correct": (exam["policy.correct"], exam["policy.correct"] >= exam["chat.correct"]),
        "chat greedy": (exam["chat.correct_greedy"], True),
        "policy greedy": (exam["policy.correct_greedy"], exam["policy.correct_greedy"] >= exam["chat.correct_greedy"] - 0.05),
        "policy reward": (exam["policy.reward"], exam["policy.reward"] >= exam["best_of_4.reward"]),
        "best-of-4 reward": (exam["best_of_4.reward"], True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("overrides", nargs="*", help="key=value, handed to `pipeline run`")
    arguments = parser.parse_args()
    tables = [rows(run(arguments.recipe, seed, arguments.overrides)) for seed in arguments.seeds]
    print("| figure | " + " | ".join(f"seed {seed}" for seed in arguments.seeds) + " | mean ± 95 % | bound |")
    print("|---|" + "---|" * (len(tables) + 2))
    failed = False
    for figure in tables[0]:
        values = [table[figure][0] for table in tables]
        holds = all(table[figure][1] for table in tables)
        failed |= not holds
        interval = T95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values)) if 1 < len(values) <= len(T95) + 1 else math.nan
        cells = " | ".join(f"{value:.3f}" for value in values)
        print(f"| {figure} | {cells} | {statistics.mean(values):.3f} ± {interval:.3f} | {'holds' if holds else 'MISSED'} |")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
