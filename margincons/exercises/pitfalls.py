"""Exercises on evaluations that go wrong, on defences that hide gradients, and on what is proved."""

from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from margincons.exercises.checking import Function, check
from margincons.exercises.fixtures import digits, network

Z = NormalDist().inv_cdf(0.975)


def check_median_size(student: Function) -> None:
    """Check ``student(sizes, success)``, a median that failures do not lower, of page `mistakes`."""
    sizes = np.array([0.03, 0.0, 0.08, 0.05, 0.0, 0.11, 0.02, 0.0, 0.06])  # 0 where the attack gave up
    some, few = sizes > 0, sizes > 0.07
    check(
        student,
        cases=[{"sizes": sizes, "success": some}, {"sizes": sizes, "success": few}],
        answer=lambda sizes, success: np.median(np.where(success, sizes, np.inf)),
        mistakes={
            "failures were left out: what remains are the easy images": lambda s, ok: np.median(s[ok]),
            "failures count as distance 0, the most brittle of all": lambda s, ok: np.median(np.where(ok, s, 0)),
            "this is a mean, and over successes only": lambda s, ok: s[ok].mean(),
            "a mean is infinite as soon as one attack fails; a median is not": lambda s, ok: np.where(
                ok, s, np.inf
            ).mean(),
        },
    )


def check_straight_through(student: Function) -> None:
    """Check ``student(inputs, levels)``, rounding whose gradient is the identity's, of page `adaptive_attacks`."""
    inputs, _ = digits(4)
    inputs = (inputs + 0.013).clamp(0, 1)  # off the grid, where rounding does something
    weights = torch.linspace(-1, 2, inputs.numel(), dtype=inputs.dtype).view_as(inputs)

    def with_gradient(function: Function) -> Function:
        def both(inputs: Tensor, levels: int) -> Tensor | None:
            inputs = inputs.requires_grad_()
            came = function(inputs, levels)
            if came is None:
                return None
            gradient = torch.zeros_like(inputs)
            if came.requires_grad:
                (gradient,) = torch.autograd.grad((weights * came).sum(), inputs)
            return torch.stack([came.detach().expand_as(gradient), gradient])

        return both

    def stairs(inputs: Tensor, levels: int) -> Tensor:
        return ((inputs * (levels - 1)).round() / (levels - 1)).detach()

    def ramp(inputs: Tensor, value: Tensor, slope: float = 1.0) -> Tensor:
        return value + slope * (inputs - inputs.detach())

    check(
        with_gradient(student),
        cases=[{"inputs": inputs, "levels": levels} for levels in (5, 17)],
        answer=with_gradient(lambda x, k: ramp(x, stairs(x, k))),
        mistakes={
            "the values are right, and the gradient is zero: that is the defence, not its bypass": with_gradient(
                stairs
            ),
            "nothing is rounded: the forward pass must be the defence to the last bit": with_gradient(
                lambda x, k: ramp(x, x.detach())
            ),
            "pixels are cut, not rounded to the nearest level": with_gradient(
                lambda x, k: ramp(x, ((x * (k - 1)).floor() / (k - 1)).detach())
            ),
            "the gradient is scaled by the number of steps": with_gradient(lambda x, k: ramp(x, stairs(x, k), k - 1)),
            "k levels have k - 1 steps between them": with_gradient(
                lambda x, k: ramp(x, ((x * k).round() / k).detach())
            ),
        },
    )


def check_linear_bounds(student: Function) -> None:
    """Check ``student(weight, bias, low, high)``, bounds of a linear layer over a box, of page `certificates`."""
    layer = network("digits/mlp")[1]
    image = digits(1)[0].flatten()
    cases = [
        {"weight": layer.weight, "bias": layer.bias, "low": (image - r).clamp(0, 1), "high": (image + r).clamp(0, 1)}
        for r in (0.02, 0.3)
    ]

    def bounds(weight: Tensor, bias: Tensor, low: Tensor, high: Tensor) -> Tensor:
        centre, radius = weight @ (low + high) / 2 + bias, weight.abs() @ (high - low) / 2
        return torch.stack([centre - radius, centre + radius])

    check(
        student,
        cases=cases,
        answer=bounds,
        mistakes={
            "ends of the box do not become ends of the output: a negative weight swaps them": lambda w, b, low, high: (
                torch.stack([w @ low + b, w @ high + b])
            ),
            "the bias was forgotten": lambda w, b, low, high: bounds(w, 0 * b, low, high),
            "the bias belongs to the centre only; it is not uncertain": lambda w, b, low, high: (
                bounds(w, b, low, high) + torch.stack([-b, b])
            ),
            "high - low is twice the radius": lambda w, b, low, high: (
                2 * bounds(w, b, low, high) - bounds(w, b, (low + high) / 2, (low + high) / 2)
            ),
        },
    )


def check_images_needed(student: Function) -> None:
    """Check ``student(accuracy, half_width)``, images for a 95% interval of that width, of page `questions`."""
    check(
        student,
        cases=[{"accuracy": 0.5, "half_width": 0.05}, {"accuracy": 0.9, "half_width": 0.01}],
        answer=lambda p, h: np.ceil(Z**2 * p * (1 - p) / h**2),
        mistakes={
            "one standard error covers 68%, not 95%": lambda p, h: np.ceil(p * (1 - p) / h**2),
            "the error falls with the square root of n, so n grows with the square of 1 / width": lambda p, h: np.ceil(
                Z**2 * p * (1 - p) / h
            ),
            "the whole width was taken for the half": lambda p, h: np.ceil(4 * Z**2 * p * (1 - p) / h**2),
            "the variance of a share is p (1 - p), not p": lambda p, h: np.ceil(Z**2 * p / h**2),
        },
        tolerance=1.5,  # rounding up, or 1.96 for the quantile, is no mistake
    )
