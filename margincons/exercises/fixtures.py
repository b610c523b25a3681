"""Fixed networks and images that checks run on: double precision, so that rounding decides nothing."""

import functools

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
