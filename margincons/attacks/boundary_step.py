"""The two places where a minimum-norm search meets a norm: how fast a gap can fall, and which way to go."""

import torch
from torch import Tensor

from margincons.threat import dual_norm, per_item, project, vector_norm


def falling_rate(gradient: Tensor, at: Tensor, norm: str) -> Tensor:
    """Fastest fall of a gap per unit of radius, to first order: the dual norm of what the box leaves free.

    A pixel at 0 cannot go down, one at 1 cannot go up, so their gradients do not count.

    Args:
        gradient: Gradients of the gap (n, c, h, w).
        at: Where they were taken, (n, c, h, w), in [0, 1].
        norm: "Linf", "L2" or "L1", in which the radius is measured.

    Returns:
        Rates (n,), at least the smallest normal number.
    """
    free = gradient * torch.where(gradient > 0, at > 0, at < 1)
    return vector_norm(free, dual_norm(norm)).clamp_min(torch.finfo(gradient.dtype).tiny)


def descend_in_ball(
    deltas: Tensor, direction: Tensor, *, inputs: Tensor, radius: Tensor, length: float, norm: str
) -> Tensor:
    """Take one step of steepest descent and return to the ball.

    Args:
        deltas: Perturbations (n, c, h, w).
        direction: An averaged gradient of the gap (n, c, h, w); only its direction counts.
        inputs: Clean images (n, c, h, w) in [0, 1].
        radius: Radius of each ball, (n,).
        length: Length of the step in radii; 2 crosses the ball.
        norm: "Linf", "L2" or "L1".

    Returns:
        New perturbations (n, c, h, w) inside the ball; in L2 and L1 also inside the pixel box.
    """
    reach = per_item(radius, deltas)
    if norm == "Linf":
        return torch.addcmul(deltas, direction.sign(), reach, value=-length).clamp_(-reach, reach)
    if norm == "L2":
        largest = per_item(vector_norm(direction, "L2").clamp_min(torch.finfo(direction.dtype).tiny), deltas)
        moved = deltas - length * reach * direction / largest
        return project((inputs + moved).clamp_(0, 1) - inputs, radius, "L2")
    share = min(1.0, length / 2)
    return (1 - share) * deltas + share * cheapest_descent(direction, inputs=inputs, radius=radius)


def cheapest_descent(gradient: Tensor, *, inputs: Tensor, radius: Tensor) -> Tensor:
    """Lower a linear function most within an l_1 ball and the pixel box: fill the steepest pixels first.

    Args:
        gradient: Gradients (n, c, h, w).
        inputs: Centres of the balls (n, c, h, w) in [0, 1].
        radius: Their radii, (n,).

    Returns:
        Perturbations (n, c, h, w): each pixel is taken to the end of its range before the next is touched.
    """
    gradient_flat, inputs_flat = gradient.flatten(1), inputs.flatten(1)
    room = torch.where(gradient_flat > 0, inputs_flat, 1 - inputs_flat) * (gradient_flat != 0)
    order = gradient_flat.abs().argsort(dim=1, descending=True)
    room_by_steepness = room.gather(1, order)
    spent = room_by_steepness.cumsum(dim=1) - room_by_steepness
    filled = torch.minimum(room_by_steepness, (radius[:, None] - spent).clamp_min(0))
    return (-gradient_flat.sign() * torch.zeros_like(room).scatter(1, order, filled)).view_as(gradient)
