"""The two places where a minimum-norm search meets its norm: how fast a gap can fall, and which way to go."""

import torch
from torch import Tensor

from margincons.threat import dual_norm, per_item, vector_norm

SMALL = 1e-12  # against division by 0
ROUNDS = 3  # of scaling a perturbation up to its norm inside the pixel box


def falling_rate(gradient: Tensor, at: Tensor, gap: Tensor, norm: str) -> Tensor:
    """Fastest fall of a gap per unit of radius, to first order: the dual norm of the gradient that the box leaves.

    A pixel at 0 cannot go down and one at 1 cannot go up, so their gradients do not count. In L1 the steepest pixels
    are soon used up: there it is the mean rate on the way through the whole gap, steepest pixels first.

    Args:
        gradient: Gradients of the gap, (n, c, h, w).
        at: Where they were taken, (n, c, h, w), in [0, 1].
        gap: The gaps, (n,).
        norm: "Linf", "L2" or "L1", in which the radius is measured.

    Returns:
        Rates (n,), never 0.
    """
    room = torch.where(gradient > 0, at, 1 - at)
    if norm == "L1":
        steepness, order = gradient.flatten(1).abs().sort(dim=1, descending=True)
        room = room.flatten(1).gather(1, order)
        missing = (gap.abs()[:, None] - (steepness * room).cumsum(1) + steepness * room).clamp_min(0)
        length = torch.minimum(room, missing / steepness.clamp_min(SMALL)).sum(dim=1)
        return (gap.abs() / length).nan_to_num(0, 0, 0).clamp_min(SMALL)
    return vector_norm(gradient * (room > 0), dual_norm(norm)).clamp_min(SMALL)


def descend_in_ball(
    deltas: Tensor, direction: Tensor, *, inputs: Tensor, radius: Tensor, length: float, norm: str
) -> Tensor:
    """Take one step of steepest descent, then return to the ball of another radius.

    Args:
        deltas: Perturbations (n, c, h, w).
        direction: An averaged gradient of the gap, (n, c, h, w); its size does not count.
        inputs: Clean images (n, c, h, w) in [0, 1].
        radius: Radius of each ball, (n,).
        length: Length of the step in radii: from 2 on, nothing is left of where it started in Linf.
        norm: "Linf", "L2" or "L1".

    Returns:
        New perturbations (n, c, h, w) in the ball; in L2 and L1 also in the pixel box.
    """
    reach = per_item(radius, deltas)
    if norm == "Linf":
        return torch.addcmul(deltas, direction.sign(), reach, value=-length).clamp_(-reach, reach)
    if norm == "L2":
        size = per_item(vector_norm(direction, "L2").clamp_min(torch.finfo(direction.dtype).tiny), deltas)
        return rescale_in_box(deltas - length * reach * direction / size, inputs=inputs, radius=radius)
    share = min(1.0, length / 2)
    return (1 - share) * deltas + share * cheapest_descent(direction, inputs=inputs, radius=radius)


def rescale_in_box(deltas: Tensor, *, inputs: Tensor, radius: Tensor) -> Tensor:
    """Scale perturbations, clamped to the pixel box, until they have this l_2 norm.

    Every move in the ball and box that lowers a linear function most has this form: its gradient, scaled and clamped.
    Each round scales the pixels that are free by what those at the end of their range leave of the radius;
    the scale only grows, and what is missing after the last round is less than one round's growth.

    Args:
        deltas: Perturbations (n, c, h, w), of any size.
        inputs: Clean images (n, c, h, w) in [0, 1].
        radius: The norms wanted, (n,).

    Returns:
        Perturbations (n, c, h, w) in the pixel box, no longer than the radius.
    """
    low, high = -inputs, 1 - inputs
    scaled = deltas * per_item(radius / vector_norm(deltas, "L2").clamp_min(SMALL), deltas)
    for _ in range(ROUNDS):
        clamped = scaled.clamp(low, high)
        free = vector_norm(scaled * (clamped == scaled), "L2").clamp_min(SMALL)
        missing = (radius**2 - vector_norm(clamped, "L2") ** 2).clamp_min(0)
        scaled = scaled * per_item((1 + missing / free**2).sqrt().clamp(max=1e3), scaled)
    return scaled.clamp(low, high)


def cheapest_descent(gradient: Tensor, *, inputs: Tensor, radius: Tensor) -> Tensor:
    """Lower a linear function most within an l_1 ball and the pixel box: fill the steepest pixels first.

    Args:
        gradient: Gradients (n, c, h, w).
        inputs: Centres of the balls, (n, c, h, w), in [0, 1].
        radius: Their radii, (n,).

    Returns:
        Perturbations (n, c, h, w): each pixel goes to the end of its range before the next is touched.
    """
    steepness, uphill = gradient.flatten(1).abs(), gradient.flatten(1).sign()
    room = torch.where(uphill > 0, inputs.flatten(1), 1 - inputs.flatten(1)) * uphill.abs()
    order = steepness.argsort(dim=1, descending=True)
    room_in_order = room.gather(1, order)
    spent = room_in_order.cumsum(dim=1) - room_in_order
    moved = torch.minimum(room_in_order, (radius[:, None] - spent).clamp_min(0))
    return (-uphill * torch.zeros_like(room).scatter(1, order, moved)).view_as(gradient)
