"""What published runs took, beside what our formulas say of them: the table of docs/plan.md, which is held to be this one."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.estimate import compute
from pipeline.estimate.gpus import gpu_named
from pipeline.estimate.shapes import Shape

PAGE = Path(__file__).resolve().parents[3] / "docs" / "plan.md"


@dataclass(frozen=True)
class Run:
    """A pretraining run as its paper reports it. Utilisation is of the peak of an A100, 312 TFLOP/s in bf16."""

    name: str
    shape: tuple[int, ...]
    """Vocabulary, hidden size, layers, heads, key-value heads, head size, width of the MLP, context."""
    tokens: float
    gpu_hours: float | None
    mfu: float | None
    """By the paper's own throughput."""
    source: str
    matrices: int = 3
    """Of an MLP: two in GPT's, three in a gated one."""


LLAMA = "Touvron et al. 2023, tables 2 and 15"
RUNS = (
    Run("LLaMA-7B", (32_000, 4096, 32, 32, 32, 128, 11_008, 2048), 1.0e12, 82_432, None, LLAMA),
    Run("LLaMA-13B", (32_000, 5120, 40, 40, 40, 128, 13_824, 2048), 1.0e12, 135_168, None, LLAMA),
    Run("LLaMA-33B", (32_000, 6656, 60, 52, 52, 128, 17_920, 2048), 1.4e12, 530_432, None, LLAMA),
    Run("LLaMA-65B", (32_000, 8192, 80, 64, 64, 128, 22_016, 2048), 1.4e12, 1_022_362, None, f"{LLAMA}; 380 tokens/s/GPU"),
    Run(
        "BLOOM-176B",
        (250_880, 14_336, 70, 112, 112, 128, 4 * 14_336, 2048),
        366e9,
        1_082_990,
        150 / 312,
        "Scao et al. 2022: 150 TFLOP/s",
        2,
    ),
)
SPEED = 380.0
"""Tokens a second and GPU of LLaMA-65B (Touvron et al. 2023, section 2.4)."""


def flops_of(run: Run) -> float:
    """Of learning one token. A model with an MLP of two matrices has as many as a gated one of two thirds of its width."""
    sizes = list(run.shape)
    sizes[6] = sizes[6] * run.matrices // 3
    return compute.learning(Shape(*sizes), run.shape[-1])


def mfu_of_llama() -> float:
    """By the throughput that its paper gives for 65B; the other sizes are planned with the same."""
    return flops_of(RUNS[3]) * SPEED / gpu_named("a100").peak(2)


def planned(run: Run) -> float:
    """GPU hours."""
    # BLOOM's authors count recomputed activations as work, and so does its throughput: four forward passes.
    work = flops_of(run) * run.tokens * (4 / 3 if run.mfu else 1)
    return compute.seconds(work, gpu_named("a100").peak(2), run.mfu or mfu_of_llama(), 1) / compute.HOUR


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_gpu_hours_of_published_runs_are_planned_within_fifteen_percent(run: Run):
    assert planned(run) == pytest.approx(run.gpu_hours, rel=0.15)


def test_gpt_3_took_as_many_flops_as_its_paper_says():
    """3.14e23 for 300 billion tokens (Brown et al. 2020, table D.1), which leaves attention and embeddings out: 6 for each weight that multiplies."""
    gpt = Shape(vocabulary=50_257, hidden=12_288, layers=96, heads=96, kv_heads=96, head_size=128, mlp=4 * 12_288 * 2 // 3, context=2048)
    assert 6 * gpt.linear * 300e9 == pytest.approx(3.14e23, rel=0.01)
    assert compute.learning(gpt, 2048) * 300e9 == pytest.approx(3.14e23, rel=0.05)


def table() -> list[str]:
    """The rows of the page."""
    rows = []
    for run in RUNS:
        hours = planned(run)
        off = hours / (run.gpu_hours or 1) - 1
        rows.append(
            f"| {run.name} | {run.tokens / 1e12:.3g}T | {flops_of(run) * run.tokens:.2e} | {run.gpu_hours:,.0f} | {hours:,.0f} | {off:+.0%} | {run.source} |"
        )
    return rows


def test_the_page_shows_this_table():
    page = PAGE.read_text(encoding="utf-8")
    assert [row for row in table() if row not in page] == []


if __name__ == "__main__":
    print(*table(), sep="\n")
