"""The search behind `margincons.detector.attacks`: climb a score in several classes at once, and drop the worse."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from margincons.attacks.randomness import uniform
from margincons.attacks.result import WITNESS_FRACTION, rival_lead
from margincons.detector.scored_network import ScoredNetwork
from margincons.threat import per_item

# Chosen on digits' calibration split, over ten networks.
MOMENTUM = 0.5
LENGTHS = (2.0, 0.1)  # first and last step of each climb, in epsilon
SHAKE = 1.0  # how far, in epsilon, a later climb starts from the best point
CLIMBS = 3  # for the target that is left
LOOK = 0.27  # share of the gradients that looks at all targets, and again at the few that are left
FEW = 3  # targets of the second look
PER_TARGET = 11  # gradients that must be there for each target looked at


def plan(gradients: int, targets: int) -> list[tuple[int, int]]:
    """Share gradients out: targets still in the race and steps for each of them, climb after climb.

    A look that the gradients do not pay for is left out; what is left goes to the most promising target.

    Source: Karnin, Koren and Somekh, 2013, "Almost optimal exploration in multi-armed bandits", ICML, for dropping the
    worse arms round after round; here an arm is a target class and a pull is a gradient.
    """
    shares, left = [], gradients
    if targets > 1:
        for kept in (targets, min(FEW, targets)):
            steps = max(1, round(LOOK * gradients / kept))
            if kept * steps <= left:
                shares.append((kept, steps))
                left -= kept * steps
    lengths = [left // CLIMBS + (number < left % CLIMBS) for number in range(CLIMBS)]
    return shares + [(1, steps) for steps in lengths if steps]


@dataclass(frozen=True)
class _Pairs:
    """Best points so far, one for each pair of an image and a target class, all pairs of an image in a row."""

    image: Tensor  # (m,), place in the batch
    target: Tensor  # (m,)
    points: Tensor  # (m, c, h, w)
    leads: Tensor  # (m,), of the target over all other classes, at the best point
    scores: Tensor  # (m,), there; minus infinity where the target is not the class

    def improved(self, points: Tensor, leads: Tensor, scores: Tensor) -> "_Pairs":
        """Take over what is better: a higher score, or a higher lead where no point has reached the target."""
        better = (scores > self.scores) | ((scores == self.scores) & (leads > self.leads))
        return replace(
            self,
            points=torch.where(per_item(better, points), points, self.points),
            leads=torch.where(better, leads, self.leads),
            scores=torch.where(better, scores, self.scores),
        )

    def best(self, kept: int, n: int) -> "_Pairs":
        """The best few pairs of each of n images."""
        by_lead = self.leads.view(n, -1).argsort(dim=1, descending=True)
        by_score = self.scores.view(n, -1).gather(1, by_lead).argsort(dim=1, descending=True, stable=True)
        place = by_lead.gather(1, by_score)[:, :kept]
        rows = (place + torch.arange(n, device=place.device)[:, None] * (len(self.image) // n)).flatten()
        return _Pairs(*(getattr(self, name)[rows] for name in ("image", "target", "points", "leads", "scores")))


def search(
    scored: ScoredNetwork,
    inputs: Tensor,
    box: tuple[Tensor, Tensor],
    targets: Tensor,
    shares: list[tuple[int, int]],
    *,
    epsilon: float,
    seed: int,
    indices: Tensor,
) -> Tensor:
    """Best point of each image, (n, c, h, w), for the best of its targets.

    Args:
        scored: What is attacked.
        inputs: Clean images (n, c, h, w), where the first climbs start.
        box: Least and greatest values of every pixel, (n, c, h, w) each.
        targets: Classes to end in, (n, k), the promising ones first.
        shares: From `plan`.
        epsilon: Unit of the steps, on the [0, 1] pixel scale.
        seed: With an image's index, fixes the random starts.
        indices: Each image's place in its data set, (n,).
    """
    n, k = targets.shape
    image = torch.arange(n, device=inputs.device).repeat_interleave(k)
    nothing = torch.full_like(inputs[image, 0, 0, 0], -torch.inf)
    start = inputs.clamp(*box)
    pairs = _Pairs(image, targets.flatten(), start[image], nothing, nothing)
    for number, (kept, steps) in enumerate(shares):
        pairs = pairs.best(kept, n)
        start = pairs.points
        if number and kept == 1:
            draws = uniform(inputs.shape[1:], seed=seed, indices=indices, restart=number, device=inputs.device)
            start = start + SHAKE * epsilon * (2 * draws.to(start) - 1)
        pairs = _climb(scored, pairs, start, (box[0][pairs.image], box[1][pairs.image]), steps=steps, epsilon=epsilon)
    return pairs.best(1, n).points


def _climb(
    scored: ScoredNetwork, pairs: _Pairs, start: Tensor, box: tuple[Tensor, Tensor], *, steps: int, epsilon: float
) -> _Pairs:
    """Signed steps along an average of gradients, from long to short."""
    points, average = start.clamp(*box), torch.zeros_like(start)
    first, last = LENGTHS
    for step in range(steps):
        leads, scores, gradient = _look(scored, points, pairs.target)
        pairs = pairs.improved(points, leads, scores)
        size = gradient.abs().sum(dim=(1, 2, 3)).clamp_min(torch.finfo(gradient.dtype).tiny)
        average = MOMENTUM * average + gradient / per_item(size, gradient)
        length = epsilon * first * (last / first) ** (step / max(1, steps - 1))
        points = (points + length * average.sign()).clamp(*box)
    logits, scores = scored(points)
    leads, scores, _ = _of_target(logits.detach(), scores.detach(), pairs.target)
    return pairs.improved(points, leads, scores)


def _look(scored: ScoredNetwork, points: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leads and scores of points, and the gradient of the score, or of the lead where the class is another."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        leads, scores, objective = _of_target(*scored(points), target)
        (gradient,) = torch.autograd.grad(objective.sum(), points)
    return leads.detach(), scores.detach(), gradient.nan_to_num(0, 0, 0)


def _of_target(logits: Tensor, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leads = -rival_lead(logits, target)
    reached = leads > WITNESS_FRACTION * logits.abs().amax(dim=1)
    return leads, scores.where(reached, -torch.inf), torch.where(reached, scores, leads)
