"""Our minimum-norm attack: a Newton iteration on the radius and a sign descent on the direction, at once.

For a rival class t let V(r) be the least lead of the class to leave over t, within radius r of the image and
inside the pixel box. The input margin is the least root of V over all rivals. One backward pass at x + delta
gives the lead and its gradient, hence minus the slope of V (the gradient's dual norm) and the way down.
Each step uses both: the radius moves by Newton's rule, and delta takes a step of steepest descent whose length,
in radii, falls geometrically. Rivals that look farther away than the nearest one are dropped after one or two steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.attacks.boundary_step import descend_in_ball, falling_rate
from margincons.attacks.randomness import uniform
from margincons.attacks.result import WITNESS_FRACTION, AttackResult, rival_lead, step_outwards
from margincons.errors import UnknownNameError
from margincons.threat import check_images, check_norm, per_item, project, vector_norm

CLEARANCE = 1.5 * WITNESS_FRACTION  # of the largest |logit|: how far past the boundary the search aims
OVERSHOOT = 2e-5  # of the radius: how far past a predicted crossing the line search looks
OUTWARDS = (1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0, 1e3)  # stretches for images whose search never crossed
MOMENTUM = 0.5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work a search does."""

    steps: int  # backward passes of an image's nearest rival
    rivals: int  # rivals tried per image at most, the nearest in logits
    gap_ratio: float  # and no rival whose logit gap is more than this many times the smallest
    slack: tuple[float, ...]  # step by step: drop pairs predicted to be this much farther than the nearest; 0 keeps one
    first_length: float  # of a descent step, in radii
    last_length: float  # the same at the end
    line_search: int  # forward passes at the end
    restarts: int = 0  # more searches, each from a random point of the best ball

    def length(self, step: int) -> float:
        """Length of a descent step in radii: constant for two steps, then falling geometrically."""
        progress = max(step - 1, 0) / (self.steps - 2)
        return self.first_length * (self.last_length / self.first_length) ** progress


EFFORTS = {
    "fast": Effort(steps=8, rivals=3, gap_ratio=1.6, slack=(0.1, 0), first_length=2.7, last_length=0.3, line_search=3),
    "standard": Effort(
        steps=11, rivals=6, gap_ratio=2.5, slack=(0.2, 0.05, 0), first_length=3.0, last_length=0.2, line_search=3
    ),
    "fine": Effort(
        steps=20, rivals=9, gap_ratio=4, slack=(0.3, 0.1, 0.03, 0), first_length=4.0, last_length=0.08, line_search=4
    ),
    "exhaustive": Effort(
        steps=20,
        rivals=9,
        gap_ratio=4,
        slack=(9.0, 9.0, 9.0, 0.3, 0.1, 0.05, 0),
        first_length=4.0,
        last_length=0.08,
        line_search=4,
        restarts=9,
    ),
}


def minimum_norm(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str = "Linf",
    effort: str = "standard",
    seed: int = 0,
    indices: Tensor | None = None,
    bf16: bool = False,
) -> AttackResult:
    """Find the nearest adversarial images that this much effort finds.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); it normalises its own inputs.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale.
        labels: Classes to leave, (n,); the predictions, when margins are wanted.
        norm: "Linf", "L2" or "L1".
        effort: "fast", "standard", "fine" or "exhaustive"; only the last draws random numbers.
        seed: Seed of the random starts.
        indices: Each image's place in its data set, (n,), which keys its random starts; its place here if None.
        bf16: Search in bfloat16 but for the end; what is returned is verified in full precision all the same.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        UnknownNameError: If the norm or the effort does not exist.
    """
    candidates = search(model, inputs, labels, norm=norm, effort=effort, seed=seed, indices=indices, bf16=bf16)
    candidates = step_outwards(model, inputs, candidates, labels)
    return AttackResult.judge(model, inputs, candidates, labels, norm=norm)


@torch.no_grad()
def search(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str = "Linf",
    effort: str = "standard",
    seed: int = 0,
    indices: Tensor | None = None,
    bf16: bool = False,
) -> Tensor:
    """Search without verifying: candidates (n, c, h, w) that `minimum_norm` puts to the proof."""
    check_images(inputs)
    check_norm(norm)
    if effort not in EFFORTS:
        raise UnknownNameError("effort", effort, EFFORTS)
    settings = EFFORTS[effort]
    indices = torch.arange(len(inputs)) if indices is None else indices
    logits = model(inputs)
    pairs = _nearest_rivals(logits, labels, settings)
    nearest = _Crossings.none_yet(inputs)
    task = _Task(model=model, inputs=inputs, labels=labels, norm=norm, settings=settings, bf16=bf16)
    _descend(task, pairs, torch.zeros_like(inputs), nearest)
    for restart in range(1, settings.restarts + 1):
        draws = uniform(inputs.shape[1:], seed=seed, indices=indices, restart=restart, device=inputs.device)
        _descend(task, pairs, project(2 * draws.to(inputs) - 1, nearest.radius, norm), nearest)
    candidates = _line_search(task, nearest)
    return torch.where(per_item(rival_lead(logits, labels) > 0, inputs), inputs, candidates)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What stays the same during a search."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    norm: str
    settings: Effort
    bf16: bool


@dataclass(kw_only=True)
class _Crossings:
    """Per image the nearest point across the boundary; before there is one, the last point that was tried."""

    radius: Tensor  # (n,), infinite before the first crossing
    delta: Tensor  # (n, c, h, w)
    gap: Tensor  # (n,), lead over the best rival, less the clearance: negative once across
    rate: Tensor  # (n,), how fast the gap falls with the radius

    @classmethod
    def none_yet(cls, inputs: Tensor) -> "_Crossings":
        nothing = inputs.new_zeros(len(inputs))
        return cls(radius=nothing + torch.inf, delta=torch.zeros_like(inputs), gap=nothing, rate=nothing + 1)

    def update(self, image: Tensor, delta: Tensor, gap: Tensor, rate: Tensor, norm: str) -> None:
        """Take in one new point per pair; an image keeps the nearest of its pairs' and its own."""
        radius = torch.where(gap < 0, vector_norm(delta, norm), torch.inf)
        pair = _least_per_image(radius, image, len(self.radius))
        radius, delta, gap, rate = radius[pair], delta[pair], gap[pair], rate[pair]
        nearer = (radius < self.radius) | (self.radius == torch.inf)
        self.radius = torch.where(nearer, radius, self.radius)
        self.delta = torch.where(per_item(nearer, delta), delta, self.delta)
        self.gap, self.rate = torch.where(nearer, gap, self.gap), torch.where(nearer, rate, self.rate)


def _nearest_rivals(logits: Tensor, labels: Tensor, settings: Effort) -> tuple[Tensor, Tensor]:
    """Pairs (image, rival) worth a backward pass: a bounded number per image, however many classes there are."""
    gaps = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
    gaps, rivals = gaps.topk(min(settings.rivals, gaps.shape[1]), dim=1, largest=False)
    worthwhile = (gaps <= settings.gap_ratio * gaps[:, :1]) & gaps.isfinite()
    worthwhile[:, 0] = True
    image, place = worthwhile.nonzero(as_tuple=True)
    return image, rivals[image, place]


def _descend(task: _Task, pairs: tuple[Tensor, Tensor], start: Tensor, nearest: _Crossings) -> None:
    """Move radius and perturbation of every pair together; `nearest` collects what crosses."""
    settings, norm, (image, rival) = task.settings, task.norm, pairs
    clean, delta = task.inputs[image], start[image]
    radius, momentum = vector_norm(delta, norm), torch.zeros_like(delta)
    diameter = vector_norm(torch.ones_like(task.inputs[:1]), norm)
    for step in range(settings.steps):
        point = (clean + delta).clamp_(0, 1)
        low_precision = task.bf16 and 3 * step < 2 * settings.steps
        logits, gap, gradient = _gap_to(rival, task.model, point, task.labels[image], low_precision)
        rate = falling_rate(gradient, point, norm)
        nearest.update(image, point - clean, _clear_gap(logits, task.labels[image]), rate, norm)

        predicted = radius + gap / rate
        trusted = torch.maximum(torch.minimum(predicted, 1.5 * radius), 0.5 * radius)
        predicted = torch.where(radius > 0, trusted, predicted.clamp(max=diameter / 2)).clamp(1e-7 * diameter, diameter)
        radius = torch.minimum(predicted, nearest.radius[image])
        momentum.mul_(MOMENTUM).add_(gradient / per_item(rate, gradient))
        delta = descend_in_ball(delta, momentum, inputs=clean, radius=radius, length=settings.length(step), norm=norm)
        if step < len(settings.slack):
            leader = torch.full_like(nearest.radius, torch.inf).scatter_reduce(0, image, predicted, "amin")
            kept = (predicted <= (1 + settings.slack[step]) * leader[image]).nonzero()[:, 0]
            image, rival, clean, delta, momentum, radius, rate = (
                values[kept] for values in (image, rival, clean, delta, momentum, radius, rate)
            )
    point = (clean + delta).clamp_(0, 1)
    nearest.update(image, point - clean, _clear_gap(task.model(point), task.labels[image]), rate, norm)


def _line_search(task: _Task, nearest: _Crossings) -> Tensor:
    """Follow each image's best ray to the boundary by the secant rule; forward passes only."""
    inputs, labels = task.inputs, task.labels
    missed = (nearest.radius == torch.inf).nonzero()[:, 0]
    candidates = (inputs + nearest.delta).clamp(0, 1)
    for stretch in OUTWARDS:
        if len(missed) == 0:
            break
        tried = (inputs[missed] + stretch * nearest.delta[missed]).clamp(0, 1)
        crossed = rival_lead(task.model(tried), labels[missed]) > 0
        candidates[missed[crossed]] = tried[crossed]
        missed = missed[~crossed]

    length = vector_norm(nearest.delta, task.norm)
    shortest, gap, rate = torch.ones_like(length), nearest.gap, nearest.rate * length
    scale = shortest
    for _ in range(task.settings.line_search):
        previous, previous_gap = scale, gap
        scale = (scale + gap / rate).clamp(0.5, 1) + OVERSHOOT
        tried = (inputs + per_item(scale, inputs) * nearest.delta).clamp(0, 1)
        gap = _clear_gap(task.model(tried), labels)
        nearer = (gap < 0) & (scale < shortest) & nearest.radius.isfinite()
        candidates = torch.where(per_item(nearer, inputs), tried, candidates)
        shortest = torch.where(nearer, scale, shortest)
        secant = (previous_gap - gap) / (scale - previous)
        rate = torch.where(secant.isfinite(), secant.clamp(rate / 4, rate * 4), rate)
    return candidates


def _gap_to(
    rivals: Tensor, model: nn.Module, points: Tensor, labels: Tensor, low_precision: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, lead of each label over its rival less the clearance, and that lead's gradient in the pixels."""
    with torch.enable_grad(), torch.autocast(points.device.type, torch.bfloat16, enabled=low_precision):
        points = points.detach().requires_grad_()
        logits = model(points).to(points.dtype)
        gap = (logits.gather(1, labels[:, None]) - logits.gather(1, rivals[:, None]))[:, 0]
        (gradient,) = torch.autograd.grad(gap.sum(), points)
    logits = logits.detach()
    gap = (gap.detach() + CLEARANCE * logits.abs().amax(dim=1)).nan_to_num()
    return logits, gap, gradient.nan_to_num(posinf=0, neginf=0)


def _clear_gap(logits: Tensor, labels: Tensor) -> Tensor:
    """Lead of each label over its best rival less the clearance, (n,): negative where the point is a witness."""
    return CLEARANCE * logits.abs().amax(dim=1) - rival_lead(logits, labels)


def _least_per_image(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Place of each image's least value, (images,); the first of equals. Every image must own a value."""
    least = values.new_full((images,), torch.inf).scatter_reduce(0, image, values, "amin")
    place = torch.where(values <= least[image], torch.arange(len(values), device=values.device), len(values))
    return torch.full_like(least, len(values), dtype=torch.long).scatter_reduce(0, image, place, "amin")
