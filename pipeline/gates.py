"""Gates (`require`): metrics that a stage cannot report, told before it starts."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pipeline.errors import Problem, suggestion

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


def gate_problems(recipe: "Recipe") -> list[Problem]:
    """Every `require` of a metric that its stage does not give."""
    found = []
    for name, config in recipe.stages.items():
        known = config.measures()
        for metric in config.require if known else ():
            if not any(fnmatchcase(metric, pattern) for pattern in known):
                told = f"a stage of kind {config.model_dump(include={'kind'})['kind']} gives no such metric (it gives {', '.join(known)})"
                found.append(recipe.problem(name, f"require.{metric}", told + suggestion(metric, _near(metric, known))))
    return found


def _near(metric: str, known: tuple[str, ...]) -> list[str]:
    """Names that could have been meant: of `policy.*`, those with the written quantity."""
    quantity = metric.partition(".")[2]
    return [name.replace("*", quantity) for name in known if "*" not in name or (quantity and name.endswith(".*"))]
