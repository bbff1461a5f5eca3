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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Figure:
    """What one seed reached; `bound` says what was demanded, nothing where the figure is only told."""

    value: float
    bound: str = ""
    holds: bool = True


def rows(stages: dict[str, Any]) -> dict[str, Figure]:
    """The figures that the demo promises, and whether each is within its bound."""
    base, judge, exam = (stages[name]["metrics"] for name in ("base", "judge", "exam"))
    return {
        "perplexity / floor": at_most(base["perplexity"] / base["perplexity_floor"], 1.05),
        "chat: correct": at_least(exam["chat.correct"], 0.70),
        "chat: correct, facts never asked": at_least(exam["chat.correct_held_fact"], 0.70),
        "chat: good": Figure(exam["chat.good"]),
        "judge: accuracy": Figure(judge["accuracy"]),
        "judge: oracle less accuracy": at_most(judge["oracle_accuracy"] - judge["accuracy"], 0.12),
        "judge: accuracy less length rule": at_least(judge["accuracy"] - judge["length_baseline"], 0.0),
        "judge: right against wrong": Figure(judge["accuracy_truth"]),
        "judge: the same, facts never asked": Figure(judge["probe_accuracy"]),
        "judge: lead of right there": Figure(judge["probe_lead"]),
        "judge: spread of that lead": Figure(judge["probe_deviation"]),
        "policy: good": at_least(exam["policy.good"], 0.70),
        "policy: KL": at_most(exam["policy.kl"], 2.5),
        "policy: correct": Figure(exam["policy.correct"]),
        "policy: correct, facts never asked": Figure(exam["policy.correct_held_fact"]),
        "policy: correct less chat's": at_least(exam["policy.correct_change"], 0.0),
        "policy: greedy correct less chat's": at_least(exam["policy.correct_greedy_change"], -0.05),
        "policy: reward": Figure(exam["policy.reward"]),
        "policy: reward less best-of-4's": at_least(exam["policy.reward_above_best_of_4"], 0.0),
        "best of 4: reward": Figure(exam["best_of_4.reward"]),
        "best of 4: correct": Figure(exam["best_of_4.correct"]),
        "best of 4: good": Figure(exam["best_of_4.good"]),
    }


def at_least(value: float, bound: float) -> Figure:
    return Figure(value, f"at least {bound:g}", value >= bound)


def at_most(value: float, bound: float) -> Figure:
    return Figure(value, f"at most {bound:g}", value <= bound)


def over_prompts(stages: dict[str, Any]) -> dict[str, str]:
    """The differences on the same prompts, with their 95 % intervals over prompts, as the exam tells them."""
    table = next(table for table in stages["exam"]["tables"] if table["title"].startswith("Change from"))
    wanted = ("correct change", "correct, greedy change", "good change", "reward change", "reward above best of 4")
    return {row[0]: row[table["columns"].index("policy")] for row in table["rows"] if row[0] in wanted}


def over_seeds(values: list[float]) -> str:
    """The mean with the half-width of its t interval."""
    if not 1 < len(values) <= len(T95) + 1:
        return f"{statistics.mean(values):.3f}"
    return f"{statistics.mean(values):.3f} ± {T95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def show(header: list[str], body: list[list[str]]) -> None:
    for cells in [header, ["---"] + ["---:"] * (len(header) - 1), *body]:
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("overrides", nargs="*", help="key=value, handed to `pipeline run`")
    arguments = parser.parse_args()
    results = [run(arguments.recipe, seed, arguments.overrides) for seed in arguments.seeds]
    names = [f"seed {seed}" for seed in arguments.seeds]
    tables = [rows(stages) for stages in results]
    body, failed = [], False
    for name, first in tables[0].items():
        figures = [table[name] for table in tables]
        missed = [seed for seed, figure in zip(names, figures, strict=True) if not figure.holds]
        verdict = f"{first.bound}: " + (f"MISSED by {', '.join(missed)}" if missed else "holds") if first.bound else ""
        values = [figure.value for figure in figures]
        body.append([name, *(f"{value:.3f}" for value in values), over_seeds(values), verdict])
        failed |= bool(missed)
    show(["figure", *names, "mean ± 95 %", "bound in every seed"], body)
    differences = [over_prompts(stages) for stages in results]
    show(["policy, prompt by prompt", *names], [[name, *(each[name] for each in differences)] for name in differences[0]])
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
