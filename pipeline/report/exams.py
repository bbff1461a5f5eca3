"""An evaluation's numbers, told apart by exam, model and quantity."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.report.charts import Dot


@dataclass(frozen=True)
class Exam:
    """One exam's numbers, by model and quantity."""

    name: str
    """Empty where there is only one."""
    models: dict[str, dict[str, float]]

    @property
    def truth(self) -> str | None:
        """The quantity that counts as the truth: the rule's verdict, which is told for sampled and greedy answers alike."""
        quantities = list(dict.fromkeys(name for values in self.models.values() for name in values))
        graded = [name for name in quantities if f"{name}_greedy" in quantities and not name.startswith("reward")]
        return next((name for name in ("truth", "good") if name in graded), graded[0] if graded else None)

    def dots(self, x: str, y: str) -> list[Dot]:
        """Models that have both quantities. Best-of-n is a yardstick, so it gets a shape of its own."""
        having = [(model, values) for model, values in self.models.items() if x in values and y in values]
        return [
            Dot(model.replace("_", " "), values[x], values[y], index, "diamond" if model.startswith("best_of") else "circle")
            for index, (model, values) in enumerate(having)
        ]


def exams(metrics: Mapping[str, float]) -> list[Exam]:
    """The evaluation's numbers, named `model.quantity`, or `model.exam.quantity` where there are several exams."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, value in metrics.items():
        *head, quantity = name.split(".")
        if head:
            found.setdefault(".".join(head[1:]), {}).setdefault(head[0], {})[quantity] = value
    named = [Exam(name, models) for name, models in found.items() if name]
    return named or [Exam(name, models) for name, models in found.items()]
