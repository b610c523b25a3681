"""The two places where a minimum-norm search meets its norm: how fast a gap can fall, and which way to go."""

import torch
from torch import Tensor

from margincons.threat import dual_norm, per_item, vector_norm

SMALL = 1e-12  # against division by 0
SCALE_ROUNDS, SHRINK_ROUNDS = 3, 25


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
    if norm == "L1":
        length = vector_norm(shortest_fall(gradient, at, gap.abs()), "L1")
        return (gap.abs() / length).nan_to_num(0, 0, 0).clamp_min(SMALL)
    free = torch.where(gradient > 0, at, 1 - at) > 0
    return vector_norm(gradient * free, dual_norm(norm)).clamp_min(SMALL)


def shortest_fall(gradient: Tensor, at: Tensor, gap: Tensor) -> Tensor:
    """Shortest move in L1 and the pixel box that closes a gap (n,) to first order, or falls short of that by least.

    The steepest pixels go to the end of their range, one after the other, until the gap is closed; (n, c, h, w).
    """
    steepness, order = gradient.flatten(1).abs().sort(dim=1, descending=True)
    room = torch.where(gradient > 0, at, 1 - at).flatten(1).gather(1, order)
    falls = steepness * room
    missing = (gap[:, None] - (falls.cumsum(dim=1) - falls)).clamp_min(0)
    moved = torch.minimum(room, missing / steepness.clamp_min(SMALL))
    return -gradient.sign() * torch.zeros_like(moved).scatter(1, order, moved).view_as(gradient)


def descend_in_ball(
    deltas: Tensor,
    direction: Tensor,
    *,
    inputs: Tensor,
    radius: Tensor,
    length: float,
    norm: str,
    share: Tensor | None = None,
) -> Tensor:
    """Take one step down, then return to the ball of another radius.

    Linf moves every pixel alike. L2 and L1 follow the gradient: a perturbation of l_1 norm r that fills whole pixels
    has an l_2 norm of about sqrt(r), so this is what a step in L1 is measured by.

    Args:
        deltas: Perturbations (n, c, h, w).
        direction: An averaged gradient of the gap, (n, c, h, w); its size does not count.
        inputs: Clean images (n, c, h, w) in [0, 1].
        radius: Radius of each ball, (n,).
        length: Length of the step in radii: from 2 on, nothing is left in Linf of where it started.
        norm: "Linf", "L2" or "L1".
        share: Of the step, each pixel's own, (n, c, h, w); in Linf alone.

    Returns:
        New perturbations (n, c, h, w) in the ball; in L2 and L1 also in the pixel box.
    """
    if norm == "Linf":
        reach = per_item(radius, deltas)
        way = direction.sign() if share is None else direction.sign() * share
        return torch.addcmul(deltas, way, reach, value=-length).clamp_(-reach, reach)
    size = vector_norm(direction, "L2").clamp_min(SMALL)
    step = length * (radius if norm == "L2" else 2 * radius.sqrt()) / size
    moved = torch.addcmul(deltas, direction, per_item(step, deltas), value=-1)
    to_norm = scale_in_box if norm == "L2" else shrink_in_box
    return to_norm(moved, inputs=inputs, radius=radius)


def scale_in_box(deltas: Tensor, *, inputs: Tensor, radius: Tensor) -> Tensor:
    """Scale perturbations, clamped to the pixel box, until they have this l_2 norm.

    Every move in ball and box that lowers a linear function most has this form: its gradient, scaled and clamped.
    Each round scales the free pixels by what those at the end of their range leave of the radius.

    Args:
        deltas: Perturbations (n, c, h, w), of any size.
        inputs: Clean images (n, c, h, w) in [0, 1].
        radius: The norms wanted, (n,).

    Returns:
        Perturbations (n, c, h, w) in the pixel box, no longer than the radius.
    """
    low, high = -inputs, 1 - inputs
    scaled = deltas * per_item(radius / vector_norm(deltas, "L2").clamp_min(SMALL), deltas)
    for _ in range(SCALE_ROUNDS):
        clamped = scaled.clamp(low, high)
        free = vector_norm(scaled * (clamped == scaled), "L2").clamp_min(SMALL)
        missing = (radius**2 - vector_norm(clamped, "L2") ** 2).clamp_min(0)
        scaled = scaled * per_item((1 + missing / free**2).sqrt().clamp(max=1e3), scaled)
    return scaled.clamp(low, high)


def shrink_in_box(deltas: Tensor, *, inputs: Tensor, radius: Tensor) -> Tensor:
    """Project perturbations onto the part of an l_1 ball that is in the pixel box.

    The nearest such point takes the same amount off every pixel, down to 0 and up to the end of its range;
    bisection finds the amount, 0 where the ball is large enough.

    Args:
        deltas: Perturbations (n, c, h, w), of any size.
        inputs: Centres of the balls, (n, c, h, w), in [0, 1].
        radius: Their radii, (n,).

    Returns:
        Perturbations (n, c, h, w) in ball and box.
    """
    room, size = torch.where(deltas > 0, 1 - inputs, inputs), deltas.abs()
    low, high = torch.zeros_like(radius), vector_norm(deltas, "Linf")
    for _ in range(SHRINK_ROUNDS):
        middle = (low + high) / 2
        longer = vector_norm(_shrunk(size, middle, room), "L1") > radius
        low, high = torch.where(longer, middle, low), torch.where(longer, high, middle)
    return deltas.sign() * _shrunk(size, high, room)


def _shrunk(size: Tensor, by: Tensor, room: Tensor) -> Tensor:
    return torch.minimum((size - per_item(by, size)).clamp_min_(0), room)
