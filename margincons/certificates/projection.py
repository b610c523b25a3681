"""The nearest adversarial point of a linear region: what a margin comes down to once every ReLU's sign is fixed.

For L2, from Lawson and Hanson, 1974, "Solving least squares problems", chapter 23: the shortest d with G d >= h
follows from the non-negative least squares problem min ||[G, h]^T u - e||, e the last unit vector, whose residual r
gives d_j = -r_j / r_last. The hyperplane through that point at right angles to it has the whole region beyond it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from margincons.certificates.boxes import Ball, Interval
from margincons.certificates.program import add_radius, encode
from margincons.certificates.relu_graph import ReluGraph

VANISHING = 1e-12  # a residual this small means that the region is empty, up to rounding


def nearest_in_region(graph: ReluGraph, ball: Ball, form: Tensor, point: Tensor) -> Tensor:
    """Point nearest to the image that meets a linear constraint with every ReLU on the side where a point has it.

    Args:
        graph: The network.
        ball: Round one image, and beyond the answer.
        form: Coefficients on the logits, (k,), whose form must be at most 0.
        point: The image (1, c, h, w) that says which region.

    Returns:
        The nearest point, (1, c, h, w); ``point`` itself where rounding left its region empty.
    """
    values = graph.values(point)
    signs = {index: values[index] > 0 for index in graph.relu_inputs}
    fixed = {
        index: Interval(torch.where(on, 0.0, -torch.inf), torch.where(on, torch.inf, 0.0))
        for index, on in signs.items()
    }
    encoding = encode(graph, ball, fixed)
    outside = [  # each at most 0 inside
        np.where(on.flatten().numpy(), -1.0, 1.0)[:, None] * encoding.relu_inputs[index] for index, on in signs.items()
    ]
    outside.append(form.numpy()[None] @ encoding.logits)
    if ball.norm == "L2":
        one = np.eye(1, encoding.pixels.shape[1])
        moved = _shortest(np.concatenate([*outside, -encoding.pixels, encoding.pixels - one]), ball.centre)
    else:
        encoding.program.require(*outside)
        moved = encoding.program.minimise(add_radius(encoding, ball)).x
    if moved is None:
        return point
    return torch.from_numpy(moved[: point.numel()]).view_as(point).clamp(0, 1)


def _shortest(outside: NDArray, centre: Tensor) -> NDArray | None:
    start = centre.flatten().numpy()
    system = np.vstack([-outside[:, 1:].T, outside[:, 0] + outside[:, 1:] @ start])
    target = np.eye(len(system))[-1]
    try:
        residual = system @ nnls(system, target)[0] - target
    except RuntimeError:  # it ran out of iterations
        return None
    return None if abs(residual[-1]) < VANISHING else start - residual[:-1] / residual[-1]
