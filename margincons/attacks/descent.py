"""Newton's rule on the radius and steepest descent on the direction, at once: the loop of the minimum-norm attack."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.attacks.boundary_step import descend_in_ball, falling_rate, shortest_fall
from margincons.attacks.crossings import CLEARANCE, NUDGE, Crossings
from margincons.threat import per_item, vector_norm

OPENING_LENGTH = 3.0  # of the first steps, in radii
REACH = {"Linf": 0.25, "L2": 0.25, "L1": 0.0}  # how far beyond the boundary, in radii, the first ball reaches
FIRST, NEWEST = 0.7, 0.5  # weights, in a rival's running mean, of the first estimate of its distance and of newer ones


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a descent moves; lengths are in radii of the ball."""

    steps: int  # backward passes for each pair that is kept to the end
    opening: int = 0  # first steps, which are OPENING_LENGTH long and reach beyond the boundary
    lengths: tuple[float, float]  # of the first and last step after the opening; geometric in between
    momentum: tuple[float, float]  # at the first and the last step
    shrink: float = 1.0  # in Linf, of all further steps of a pixel, each time that its gradient changes sign
    slack: float = 0.0  # how much farther than the nearest, in logarithms, a rival may seem after one step
    decay: float = 0.65  # of the slack, with every further step
    shaken: float = 0.0  # share of the pixels whose start is drawn at random

    def schedule(self) -> Iterator[tuple[float, float, float]]:
        """Step by step: length, momentum, and which share of REACH is used."""
        for step in range(self.steps):
            annealed = max(0, step - self.opening) / max(1, self.steps - self.opening - 1)
            length = self.lengths[0] * (self.lengths[1] / self.lengths[0]) ** annealed
            momentum = self.momentum[0] + (self.momentum[1] - self.momentum[0]) * step / max(1, self.steps - 1)
            opening = step < self.opening
            yield OPENING_LENGTH if opening else length, momentum, 1 - step / self.opening if opening else 0.0


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Where a descent left the pairs of image and rival that it kept to the end."""

    image: Tensor  # (m,)
    delta: Tensor  # (m, c, h, w)
    radius: Tensor  # (m,), of delta
    rate: Tensor  # (m,), how fast the pair's gap fell with the radius


def descend(
    nearest: Crossings,
    pairs: tuple[Tensor, Tensor],
    start: Tensor,
    how: Descent,
    *,
    prior: Tensor | None = None,
    bf16: bool = False,
) -> Pairs:
    """Move radius and perturbation of every pair together; `nearest` collects what crosses.

    Args:
        nearest: What was found before.
        pairs: Images (m,), each at least once, and a rival for each of these places, (m,).
        start: Perturbations (n, c, h, w), one per image.
        how: The plan.
        prior: A first guess at the logarithm of each pair's distance, (m,), up to a constant per image.
        bf16: Compute all but the last third of the steps in bfloat16.
    """
    image, rival = pairs
    clean, delta, seems = nearest.inputs[image], start[image], prior
    average, last_sign, shrunk = torch.zeros_like(delta), torch.zeros_like(delta), torch.ones_like(delta)
    shrinks = how.shrink < 1 and nearest.norm == "Linf"
    radius = vector_norm(delta, nearest.norm)
    diameter = vector_norm(torch.ones_like(nearest.inputs[:1]), nearest.norm)
    for step, (length, momentum, reach) in enumerate(how.schedule()):
        point, own = (clean + delta).clamp_(0, 1), nearest.labels[image]
        logits, gap, gradient = _gap_and_gradient(nearest.model, point, own, rival, bf16 and 3 * step < 2 * how.steps)
        rate = falling_rate(gradient, point, gap, nearest.norm)
        nearest.update(image, radius, delta, logits, rate)

        crossing = radius + gap / rate
        crossing = torch.where(radius > 0, crossing.clamp(0.5 * radius, 1.5 * radius), crossing.clamp(max=diameter / 2))
        crossing = torch.where(gap > 0, (1 + NUDGE) * crossing, crossing).clamp(1e-7 * diameter, diameter)
        target = (1 + reach * REACH[nearest.norm]) * torch.minimum(crossing, nearest.radius[image])
        average.mul_(momentum).addcdiv_(gradient, per_item(rate, gradient))
        options = {"radius": target, "length": length, "norm": nearest.norm}
        if shrinks:
            sign = average.sign()
            turned = last_sign.mul_(sign).clamp_(max=0)  # -1 where the sign changed, else 0
            shrunk.addcmul_(shrunk, turned, value=1 - how.shrink)
            last_sign = sign
            options["share"] = shrunk
        delta = descend_in_ball(delta, average, inputs=clean, **options)
        radius = vector_norm(delta, nearest.norm)
        if step < how.steps - 1 and len(image) > len(nearest.radius):
            # One estimate is off by a tenth, whichever step it comes from; their mean is better.
            seems = crossing.log() if seems is None else torch.lerp(seems, crossing.log(), NEWEST if step else FIRST)
            leader = torch.full_like(nearest.radius, torch.inf).scatter_reduce(0, image, seems, "amin")
            kept = (seems <= leader[image] + how.slack * how.decay**step).nonzero()[:, 0]
            if len(kept) < len(image):
                image, rival, clean, delta, radius = image[kept], rival[kept], clean[kept], delta[kept], radius[kept]
                average, last_sign, shrunk = average[kept], last_sign[kept], shrunk[kept]
                rate, seems = rate[kept], seems[kept]
    nearest.update(image, radius, delta, nearest.model((clean + delta).clamp_(0, 1)), rate)
    return Pairs(image=image, delta=delta, radius=radius, rate=rate)


def descend_to_corner(nearest: Crossings) -> None:
    """Replace crossings in L1 by the nearest point of the boundary's tangent, where that is across and nearer.

    That point moves few pixels, as far as they go; a descent comes near it slowly. On a linear network
    it is the answer.
    """
    inputs, delta = nearest.inputs, nearest.delta
    logits, gap, gradient = _gap_and_gradient(nearest.model, nearest.points(), nearest.labels, nearest.rival, False)
    at_image = gap - (gradient * delta).flatten(1).sum(dim=1)  # the gap there, were the network linear
    corner = shortest_fall(gradient, inputs, (1 + NUDGE) * at_image)
    logits = nearest.model((inputs + corner).clamp(0, 1))
    everyone = torch.arange(len(inputs), device=inputs.device)
    nearest.update(everyone, vector_norm(corner, "L1"), corner, logits, nearest.rate)


def _gap_and_gradient(
    model: nn.Module, points: Tensor, labels: Tensor, rivals: Tensor, low_precision: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, each label's gap to its rival, and the gradient of that gap; what is not finite becomes 0."""
    with torch.enable_grad(), torch.autocast(points.device.type, torch.bfloat16, enabled=low_precision):
        points = points.detach().requires_grad_()
        logits = model(points).to(points.dtype)
        gap = (logits.gather(1, labels[:, None]) - logits.gather(1, rivals[:, None]))[:, 0]
        gradient = torch.autograd.grad(gap.sum(), points)[0]
    logits = logits.detach()
    gap = gap.detach() + CLEARANCE * logits.abs().amax(dim=1)
    return logits, gap.nan_to_num(0, 0, 0), gradient.nan_to_num(0, 0, 0)
