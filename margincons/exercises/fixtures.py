"""Fixed networks and images that checks run on: double precision, so that rounding decides nothing."""

import functools

import torch
from torch import Tensor, nn

from margincons.data import load_images
from margincons.zoo import load_model


@functools.cache
def network(model_id: str = "digits/standard") -> nn.Module:
    """A bundled network in double precision; checks pass copies of it on."""
    return load_model(model_id).double().requires_grad_(False)


def digits(n: int = 12) -> tuple[Tensor, Tensor]:
    """The first n calibration images, (n, 1, 8, 8) in double precision, and their labels, (n,)."""
    images = load_images("digits", split="calibration", n=n)
    return images.inputs.double(), images.labels


def partly_misclassified(model: nn.Module, n: int = 12) -> tuple[Tensor, Tensor]:
    """Calibration images as of `digits`, of which the model has a third wrong."""
    inputs, labels = digits(200)
    right = model(inputs).argmax(dim=1) == labels
    chosen = torch.cat([(~right).nonzero()[: n // 3, 0], right.nonzero()[: n - n // 3, 0]])
    return inputs[chosen], labels[chosen]
