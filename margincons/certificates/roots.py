"""Roots of many functions at once, by bisection that interpolates where it can."""

from collections.abc import Callable

import torch
from torch import Tensor


def last_positive(
    function: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    ends: tuple[Tensor, Tensor],
    *,
    tolerance: float,
) -> Tensor:
    """Close in on where functions change sign, and return the positive ends.

    Source: Chandrupatla, 1997, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives", Advances in Engineering Software 28(3). Dear functions are evaluated only
    where they still matter.

    Args:
        function: Maps points (m,) and the places (m,) of the functions they belong to, to values (m,).
        low: Where each function is positive, (n,), at least 0.
        high: Where each function is not, (n,), larger.
        ends: The values there, (n,) each.
        tolerance: Width of the last bracket, as a fraction of its upper end.

    Returns:
        The lower ends of the last brackets, (n,): the function was positive there.
    """
    here, there = low.clone(), high.clone()  # the newest point, and one on the root's other side
    value, opposite = (end.clone() for end in ends)
    share = torch.full_like(low, 0.5)  # of the way from here to there
    while True:
        width = tolerance * torch.maximum(here, there)
        active = ((there - here).abs() > width).nonzero()[:, 0]
        if len(active) == 0:
            return torch.where(value > 0, here, there)
        x1, f1, x2, f2 = here[active], value[active], there[active], opposite[active]
        x = x1 + share[active] * (x2 - x1)
        f = function(x, active)
        same = (f > 0) == (f1 > 0)
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
        here[active], value[active], there[active], opposite[active] = x, f, x2, f2
        xi, phi = (x - x2) / (x3 - x2), (f - f2) / (f3 - f2)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        quadratic = f / (f2 - f) * f3 / (f2 - f3) + (x3 - x) / (x2 - x) * f / (f3 - f) * f2 / (f3 - f2)
        least = (width[active] / 2 / (x2 - x).abs()).clamp(max=0.5)
        share[active] = torch.where(smooth, torch.maximum(torch.minimum(quadratic, 1 - least), least), 0.5)
