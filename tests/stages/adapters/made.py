"""Adapters that do something, as if they had been trained."""

import torch

from stages.adapters.building import parameters_of


def disturbed(model, name="default", seed=1, size=0.1):
    """Add noise to every parameter of an adapter, so that it changes what the model says."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters_of(model, name).values():
            parameter.add_(torch.randn(parameter.shape, generator=source) * size)
    return model.eval()
