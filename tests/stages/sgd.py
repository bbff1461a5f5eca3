"""Plain SGD in place of AdamW, as `python -m tests.stages.sgd job.json` for whole stages: weights then show gradients, and bounds can be tight.

Adam divides by the gradient's size, so that where a gradient is almost zero its rounding shows at the size of the learning rate.
"""

import sys
from collections.abc import Iterable
from typing import Any


def sgd(models: Iterable[Any], settings: Any) -> Any:
    import torch

    return torch.optim.SGD([p for model in models for p in model.parameters() if p.requires_grad], lr=settings.learning_rate)


if __name__ == "__main__":
    from stages.__main__ import main
    from stages.core import training

    training.adamw = sgd  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
