"""Gates (`require`): metrics that a stage cannot report, told before it starts, and limits that its result does not keep."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, suggestion
from stages.core.config import Bound, StageConfig

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


def missed_gates(require: Mapping[str, Any], metrics: Mapping[str, Any], config: StageConfig | None = None) -> list[str]:
    """Limits of `require`, as settings have it or as a job was told it, that a result does not keep: a clause each. The stage's `config` tells why a number
    is missing."""
    missed = []
    for name, limit in require.items():
        bound = Bound(min=limit) if isinstance(limit, int | float) else Bound.model_validate(limit)
        value = metrics.get(name)
        if not isinstance(value, int | float):
            why = config.unmeasured(name, metrics) if config is not None else None
            missed.append(
                f"it reports no {name}" + (f", because {why}" if why else f" (it reports {', '.join(sorted(metrics)) or 'nothing'})")
            )
        # Written so that a value that is not a number is a miss.
        elif bound.min is not None and not value >= bound.min:
            missed.append(f"{name} {value:.4g} is below {bound.min:g}")
        elif bound.max is not None and not value <= bound.max:
            missed.append(f"{name} {value:.4g} is above {bound.max:g}")
    return missed


def _near(metric: str, known: tuple[str, ...]) -> list[str]:
    """Names that could have been meant: of `policy.*`, those with the written quantity."""
    quantity = metric.partition(".")[2]
    return [name.replace("*", quantity) for name in known if "*" not in name or (quantity and name.endswith(".*"))]
