"""The nearest point of a linear region: what a Euclidean margin comes down to once every ReLU's sign is fixed.

Source: Lawson and Hanson, 1974, "Solving least squares problems", chapter 23: the shortest d with G d >= h follows from
the non-negative least squares problem min ||[G, h]^T u - e|| with e the last unit vector. Its residual r gives
d_j = -r_j / r_last. The hyperplane through that point, at right angles to it, has the whole region on its far side.
"""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from margincons.certificates.boxes import Ball, Interval
from margincons.certificates.program import encode
from margincons.certificates.relu_graph import ReluGraph

VANISHING = 1e-12  # a residual this small means that the region is empty, up to rounding


def nearest_in_region(graph: ReluGraph, ball: Ball, boxes: dict[int, Interval], form: Tensor, point: Tensor) -> Tensor:
    """Point nearest to the image, in L2, that meets a linear constraint with every ReLU on its side of zero.

    Args:
        graph: The network.
        ball: Round one image.
        boxes: Bounds of the inputs of every ReLU; those of known sign are taken to keep it.
        form: Coefficients on the logits, (k,), whose form must be at most 0.
        point: An image (1, c, h, w) whose signs are taken.

    Returns:
        The nearest point, (1, c, h, w); ``point`` itself where rounding left its region empty.
    """
    values = graph.values(point)
    fixed, rows = {}, []
    for index in graph.relu_inputs:
        on = values[index] > 0
        fixed[index] = Interval(boxes[index].lower.masked_fill(on, 0.0), boxes[index].upper.masked_fill(~on, 0.0))
    encoding = encode(graph, ball, fixed, exact=True)
    for index in graph.relu_inputs:
        unstable = boxes[index].unstable.flatten().numpy()
        sign = np.where(values[index].flatten().numpy() > 0, 1.0, -1.0)[:, None]
        rows.append((sign * encoding.relu_inputs[index])[unstable])
    rows.append(-form.numpy()[None] @ encoding.logits)
    rows += [encoding.pixels, np.eye(1, encoding.pixels.shape[1]) - encoding.pixels]
    stacked = np.concatenate(rows)  # each at least 0
    centre = ball.centre.flatten().numpy()
    coefficients, bound = stacked[:, 1:], -stacked[:, 0] - stacked[:, 1:] @ centre
    system = np.vstack([coefficients.T, bound])
    target = np.eye(len(system))[-1]
    multipliers, _ = nnls(system, target)
    residual = system @ multipliers - target
    if abs(residual[-1]) < VANISHING:
        return point
    moved = centre - residual[:-1] / residual[-1]
    return torch.from_numpy(moved).view_as(point).clamp(0, 1)
