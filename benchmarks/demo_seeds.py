"""Run the demo recipe with several seeds and hold every stage to its bound.

    python benchmarks/demo_seeds.py [key=value ...] --seeds 11 12 13 14 15

Each seed draws another world, another initialisation and other samples. Prints a row a figure with a column a seed, the mean with a t interval over
seeds, and whether each bound holds in every seed; then the differences that matter with their intervals over prompts; and on the way what each
seed cost. Runs lie in `runs/demo-seed-N`, so a second call only reads them.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def run(recipe: Path, seed: int, overrides: list[str]) -> dict[str, Any]:
    """The result of every stage, by stage name. Raises CalledProcessError if the pipeline fails."""
    name = f"{recipe.stem}-seed-{seed}"
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), f"name={name}", f"seed={seed}", *overrides]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost = f"{time.monotonic() - began:.0f} s, {cpu:.0f} s of CPU, largest process so far {after.ru_maxrss / 2**20:.2f} GiB"
    print(f"seed {seed}: {cost}", file=sys.stderr, flush=True)
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(Path("runs", name).glob("*/result.json"))
        if path.parent.is_symlink()
    }


def rows(stages: dict[str, Any]) -> dict[str, tuple[float, bool]]:
    """The figures that the demo promises, and whether each is within its bound."""
    base, judge, exam = (stages[name]["metrics"] for name in ("base", "judge", "exam"))
    ratio = base["perplexity"] / base["perplexity_floor"]
    return {
        "perplexity / floor": (ratio, ratio <= 1.05),
        "chat correct, facts never asked": (exam["chat.correct_held_fact"], exam["chat.correct_held_fact"] >= 0.70),
        "chat correct": (exam["chat.correct"], exam["chat.correct"] >= 0.70),
        "judge accuracy": (judge["accuracy"], judge["oracle_accuracy"] - judge["accuracy"] <= 0.12),
        "judge oracle": (judge["oracle_accuracy"], True),
        "judge right vs wrong": (judge["accuracy_truth"], judge["accuracy_truth"] > 0.5),
        "the same, facts never asked": (judge["probe_accuracy"], True),
        "lead of right there, in deviations of the reward": (judge["probe_lead"], True),
        "spread of that lead": (judge["probe_deviation"], True),
        "length baseline": (judge["length_baseline"], judge["length_baseline"] < judge["accuracy"]),
        "chat good": (exam["chat.good"], True),
        "policy good": (exam["policy.good"], exam["policy.good"] >= 0.70),
        "policy KL": (exam["policy.kl"], exam["policy.kl"] <= 2.5),
        "policy correct": (exam["policy.correct"], exam["policy.correct"] >= exam["chat.correct"]),
        "policy correct, facts never asked": (exam["policy.correct_held_fact"], True),
        "policy correct less chat correct": (exam["policy.correct_change"], exam["policy.correct_change"] >= 0),
        "chat greedy": (exam["chat.correct_greedy"], True),
        "policy greedy": (exam["policy.correct_greedy"], exam["policy.correct_greedy"] >= exam["chat.correct_greedy"] - 0.05),
        "policy reward": (exam["policy.reward"], exam["policy.reward"] >= exam["best_of_4.reward"]),
        "best-of-4 reward": (exam["best_of_4.reward"], True),
        "policy reward less best-of-4 reward": (exam["policy.reward_above_best_of_4"], exam["policy.reward_above_best_of_4"] >= 0),
        "best-of-4 good": (exam["best_of_4.good"], True),
        "best-of-4 correct": (exam["best_of_4.correct"], True),
    }


def over_prompts(stages: dict[str, Any]) -> dict[str, str]:
    """The differences on the same prompts, with their 95 % intervals over prompts, as the exam tells them."""
    table = next(table for table in stages["exam"]["tables"] if table["title"].startswith("Change from"))
    wanted = ("correct change", "correct, greedy change", "good change", "reward change", "reward above best of 4")
    return {row[0]: row[table["columns"].index("policy")] for row in table["rows"] if row[0] in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("overrides", nargs="*", help="key=value, handed to `pipeline run`")
    arguments = parser.parse_args()
    results = [run(arguments.recipe, seed, arguments.overrides) for seed in arguments.seeds]
    tables = [rows(stages) for stages in results]
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
    print("\n| policy, prompt by prompt | " + " | ".join(f"seed {seed}" for seed in arguments.seeds) + " |")
    print("|---|" + "---|" * len(results))
    differences = [over_prompts(stages) for stages in results]
    for name in differences[0]:
        print(f"| {name} | " + " | ".join(each[name] for each in differences) + " |")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
