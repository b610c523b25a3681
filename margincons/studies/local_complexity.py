"""Local complexity: how many of a network's ReLUs bend it within a small neighbourhood of an image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from margincons.errors import UnsupportedLayerError, UsageError
from margincons.passes import in_eval_mode


def random_frame(dimension: int, directions: int, *, seed: int = 0) -> Tensor:
    """Orthonormal directions drawn uniformly, (directions, dimension).

    Raises:
        UsageError: If there are more directions than dimensions, or none.
    """
    if not 1 <= directions <= dimension:
        raise UsageError(f"Expected 1 to {dimension} directions in {dimension} dimensions, got {directions}.")
    generator = torch.Generator().manual_seed(seed)
    orthogonal, triangle = torch.linalg.qr(torch.randn(dimension, directions, generator=generator))
    return (orthogonal * triangle.diagonal().sign()).T


@in_eval_mode
@torch.no_grad()
def local_complexity(
    model: nn.Module, inputs: Tensor, *, radius: float, directions: int = 16, seed: int = 0, batch_size: int = 64
) -> Tensor:
    """Count the ReLUs whose input changes sign among the vertices of a small cross-polytope round each image.

    The vertices are x + radius v and x - radius v for each v of one random orthonormal frame. In the first layer a
    ReLU is counted exactly where its hyperplane cuts the polytope; in deeper layers its boundary is bent, and a bend
    that leaves all vertices on one side is missed. A ReLU of a convolution counts once for each of its positions.

    Source: Humayun, Balestriero and Baraniuk, 2024, "Deep networks always grok and here is why", ICML,
    arXiv:2402.15555, section 3.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); its ReLUs are `torch.nn.ReLU` modules.
        inputs: Images (n, c, h, w); vertices may leave [0, 1].
        radius: Distance from image to vertex, in the l_2 norm, on the [0, 1] pixel scale.
        directions: Size of the frame, from 1 to the number of pixels.
        seed: Seed of the frame, the same for all images.
        batch_size: Images taken at once, each with its 2 * directions vertices.

    Returns:
        Counts, (n,), int64.

    Raises:
        UnsupportedLayerError: If the network runs no ReLU module.
        UsageError: If the radius is not above 0, or there cannot be so many directions.
    """
    if not radius > 0:
        raise UsageError(f"Expected a radius above 0, got {radius:g}.")
    frame = random_frame(inputs[0].numel(), directions, seed=seed).to(inputs)
    offsets = radius * torch.cat([frame, -frame]).view(-1, 1, *inputs.shape[1:])
    counts = []
    for part in inputs.split(batch_size):
        with _relu_inputs(model) as seen:
            model((part + offsets).flatten(0, 1))
        if not seen:
            raise UnsupportedLayerError(type(model).__name__, "it runs no torch.nn.ReLU whose input could be watched")
        positive = (one.view(len(offsets), len(part), -1) > 0 for one in seen)
        counts.append(sum((on.any(dim=0) & ~on.all(dim=0)).sum(dim=1) for on in positive))
    return torch.cat(counts)


@in_eval_mode
@torch.no_grad()
def relu_count(model: nn.Module, image: Tensor) -> int:
    """How many ReLUs a network runs on one image (1, c, h, w): the largest count there can be."""
    with _relu_inputs(model) as seen:
        model(image)
    return sum(one[0].numel() for one in seen)


@contextmanager
def _relu_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    # A copy: a ReLU may work in place.
    hooks = [relu.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone())) for relu in relus]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
