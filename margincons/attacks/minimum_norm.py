"""Our minimum-norm attack: Newton's rule on the radius and steepest descent on the direction, at once.

For a rival class t let V(r) be the least lead over t of the class to leave, within radius r of the image and inside
the pixel box. The input margin is the least root of V over all rivals. One backward pass at x + delta gives the
lead (the *gap*) and its gradient, whose dual norm is minus the slope of V to first order. Each step uses both: the
radius moves by Newton's rule, and delta takes a descent step whose length, in radii, falls as the search goes on.
Rivals that look farther away than the nearest are dropped after the first steps. While steps are long the ball
reaches a little beyond the boundary, and the gradient is averaged over more and more steps: both make the descent
less easily caught by the nearest local minimum. Three forward passes along the best ray then find its crossing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from margincons.attacks.boundary_step import descend_in_ball, falling_rate
from margincons.attacks.randomness import uniform
from margincons.attacks.result import WITNESS_FRACTION, AttackResult, rival_lead, step_outwards
from margincons.classifier import Classifier, Head
from margincons.errors import UnknownNameError
from margincons.threat import check_images, check_norm, per_item, project, vector_norm

CLEARANCE = 1.5 * WITNESS_FRACTION  # of the largest |logit|: how far past the boundary the search aims
NUDGE = 2e-5  # of the radius: how far past a predicted crossing the line search looks
STRETCHES = (1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0, 1e3)  # of the last perturbation, where nothing crossed


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work a search does."""

    steps: int  # backward passes for an image's nearest rival
    rivals: int  # rivals tried per image, at most
    gap_ratio: float  # and none whose gap, over the distance of the head's rows, is so many times the least
    slack: tuple[float, ...]  # after each of the first steps: how much farther than the nearest a rival may seem
    last_length: float  # of a descent step, in radii
    restarts: int = 0  # further searches, each from the best perturbation with half of its pixels drawn anew


EFFORTS = {
    "fast": Effort(steps=8, rivals=3, gap_ratio=2.5, slack=(0.1, 0.05, 0.05, 0.02, 0), last_length=0.3),
    "standard": Effort(steps=13, rivals=5, gap_ratio=2.5, slack=(0.15, 0.1, 0.1, 0.05, 0.05, 0.02, 0), last_length=0.2),
    "fine": Effort(
        steps=30, rivals=6, gap_ratio=4, slack=(0.15, *[0.1] * 6, *[0.05] * 6, *[0.02] * 4, 0), last_length=0.06
    ),
    "exhaustive": Effort(
        steps=30,
        rivals=9,
        gap_ratio=9,
        slack=(1, 1, 0.5, 0.3, *[0.1] * 6, *[0.05] * 6, *[0.02] * 4, 0),
        last_length=0.06,
        restarts=9,
    ),
}
FIRST_LENGTH, MIDDLE_LENGTH = 3.0, 1.3  # of descent steps, in radii: in the first third, and just after it
FIRST_MOMENTUM, LAST_MOMENTUM = 0.05, 0.8
L1_STEPS = 3  # steps in L1 for each that an effort names: which few pixels to move is found more slowly
REACH = {"Linf": 0.25, "L2": 0.25, "L1": 0.0}  # how far beyond the boundary, in radii, the first ball reaches
LINE_SEARCH = 3  # forward passes along the best ray


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
        effort: "fast", "standard", "fine" or "exhaustive"; only the last one draws random numbers.
        seed: Seed of the random starts.
        indices: Each image's place in its data set, (n,), which keys its random starts; its place here if None.
        bf16: Compute all but the last third of the steps in bfloat16; the result is verified in full precision.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        NonFiniteLogitsError: If the network gives NaN or infinity on the first image.
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
    """Search without verifying: the candidates (n, c, h, w) that `minimum_norm`, with the same options, judges."""
    check_images(inputs)
    check_norm(norm)
    if effort not in EFFORTS:
        raise UnknownNameError("effort", effort, EFFORTS)
    if len(inputs) == 0:
        return inputs.clone()
    settings = EFFORTS[effort]
    if norm == "L1":
        longer = tuple(slack for slack in settings.slack for _ in range(L1_STEPS))
        settings = replace(settings, steps=L1_STEPS * settings.steps, slack=longer)
    task = _Task(model=model, inputs=inputs, labels=labels, norm=norm, effort=settings, bf16=bf16)
    indices = torch.arange(len(inputs)) if indices is None else indices
    pairs = _nearest_rivals(model(inputs), labels, Classifier(model, inputs[:1]).head, task.effort)
    nearest = _Crossings.none_yet(inputs)
    _descend(task, pairs, torch.zeros_like(inputs), nearest)
    for restart in range(1, task.effort.restarts + 1):
        draws = uniform(inputs.shape[1:], seed=seed, indices=indices, restart=restart, device=inputs.device)
        _descend(task, pairs, _shaken(nearest, draws.to(inputs), norm), nearest)
    _stretch_misses(task, nearest)
    return _line_search(task, nearest)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What stays the same during a search."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    norm: str
    effort: Effort
    bf16: bool


@dataclass(kw_only=True)
class _Crossings:
    """Per image the nearest point across the boundary; before there is one, the last point that was tried."""

    radius: Tensor  # (n,), infinite before the first crossing
    delta: Tensor  # (n, c, h, w)
    gap: Tensor  # (n,), to the best rival: negative once across
    rate: Tensor  # (n,), how fast the gap falls with the radius

    @classmethod
    def none_yet(cls, inputs: Tensor) -> "_Crossings":
        zeros = inputs.new_zeros(len(inputs))
        return cls(radius=zeros + torch.inf, delta=torch.zeros_like(inputs), gap=zeros, rate=zeros + 1)

    def update(self, image: Tensor, radius: Tensor, delta: Tensor, gap: Tensor, rate: Tensor) -> None:
        """Take in one new point per pair of image and rival."""
        radius = torch.where(gap < 0, radius, torch.inf)
        pair = _first_least(radius, image, len(self.radius))
        nearer = (radius[pair] < self.radius) | (self.radius == torch.inf)
        self.radius = torch.where(nearer, radius[pair], self.radius)
        self.gap = torch.where(nearer, gap[pair], self.gap)
        self.rate = torch.where(nearer, rate[pair], self.rate)
        self.delta = torch.where(per_item(nearer, delta), delta[pair], self.delta)


def _shaken(nearest: _Crossings, draws: Tensor, norm: str) -> Tensor:
    """The best perturbations with half of their pixels drawn anew; (n, c, h, w). `draws` are uniform in [0, 1)."""
    kept = draws < 0.5
    fresh = torch.where(kept, 0, 4 * draws - 3)  # uniform in [-1, 1)
    return torch.where(kept, nearest.delta, project(fresh, nearest.radius.clamp(max=1), norm))


def _nearest_rivals(logits: Tensor, labels: Tensor, head: Head | None, effort: Effort) -> tuple[Tensor, Tensor]:
    """Pairs (image, rival) worth a backward pass: a bounded number per image, however many classes there are.

    A gap's gradient is, layer by layer, a linear map of the difference between two rows of the head:
    gaps are comparable across rivals once they are divided by its length.
    """
    gaps = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
    gaps, rivals = gaps.topk(min(4 * effort.rivals, gaps.shape[1]), dim=1, largest=False)
    if head is not None:
        gaps = gaps / (head.weight[rivals] - head.weight[labels][:, None]).norm(dim=2)
    gaps, order = gaps.topk(min(effort.rivals, gaps.shape[1]), dim=1, largest=False)
    tried = (gaps <= effort.gap_ratio * gaps[:, :1]) & gaps.isfinite()
    tried[:, 0] = True
    image, place = tried.nonzero(as_tuple=True)
    return image, rivals.gather(1, order)[image, place]


def _schedule(effort: Effort, norm: str) -> Iterator[tuple[float, float, float]]:
    """Step by step: length of the descent step, momentum, and how far the ball reaches beyond the boundary."""
    long_steps = round(effort.steps / 3)
    for step in range(effort.steps):
        annealed = max(0, step - long_steps) / (effort.steps - long_steps - 1)
        length = MIDDLE_LENGTH * (effort.last_length / MIDDLE_LENGTH) ** annealed
        momentum = FIRST_MOMENTUM + (LAST_MOMENTUM - FIRST_MOMENTUM) * step / (effort.steps - 1)
        yield FIRST_LENGTH if step < long_steps else length, momentum, REACH[norm] * max(0.0, 1 - step / long_steps)


def _descend(task: _Task, pairs: tuple[Tensor, Tensor], start: Tensor, nearest: _Crossings) -> None:
    """Move radius and perturbation of every pair together; `nearest` collects what crosses."""
    image, rival = pairs
    clean, delta = task.inputs[image], start[image]
    average, radius = torch.zeros_like(delta), vector_norm(delta, task.norm)
    diameter = vector_norm(torch.ones_like(task.inputs[:1]), task.norm)
    least_crossing = diameter.expand(len(image))
    for step, (length, momentum, reach) in enumerate(_schedule(task.effort, task.norm)):
        point, own = (clean + delta).clamp_(0, 1), task.labels[image]
        low_precision = task.bf16 and 3 * step < 2 * task.effort.steps
        logits, gap, gradient = _gap_and_gradient(task.model, point, own, rival, low_precision)
        rate = falling_rate(gradient, point, gap, task.norm)
        nearest.update(image, radius, delta, _gap(logits, own), rate)

        crossing = radius + gap / rate
        crossing = torch.where(radius > 0, crossing.clamp(0.5 * radius, 1.5 * radius), crossing.clamp(max=diameter / 2))
        crossing = crossing.clamp(1e-7 * diameter, diameter)
        target = (1 + reach) * torch.minimum(crossing, nearest.radius[image])
        average.mul_(momentum).addcdiv_(gradient, per_item(rate, gradient))
        delta = descend_in_ball(delta, average, inputs=clean, radius=target, length=length, norm=task.norm)
        radius = vector_norm(delta, task.norm)
        if step < len(task.effort.slack):
            # Estimates from the first two steps, far from the boundary, are too rough to be kept.
            least_crossing = crossing if step < 2 else torch.minimum(crossing, least_crossing)
            leader = torch.full_like(nearest.radius, torch.inf).scatter_reduce(0, image, least_crossing, "amin")
            kept = (least_crossing <= (1 + task.effort.slack[step]) * leader[image]).nonzero()[:, 0]
            image, rival, clean, delta = image[kept], rival[kept], clean[kept], delta[kept]
            average, radius, rate, least_crossing = average[kept], radius[kept], rate[kept], least_crossing[kept]
    point = (clean + delta).clamp_(0, 1)
    nearest.update(image, radius, delta, _gap(task.model(point), task.labels[image]), rate)


def _stretch_misses(task: _Task, nearest: _Crossings) -> None:
    """Where nothing crossed, go on along the last perturbation."""
    missed = (nearest.radius == torch.inf).nonzero()[:, 0]
    for stretch in STRETCHES:
        if len(missed) == 0:
            return
        tried = (task.inputs[missed] + stretch * nearest.delta[missed]).clamp(0, 1)
        gap = _gap(task.model(tried), task.labels[missed])
        crossed = gap < 0
        found, delta = missed[crossed], (tried - task.inputs[missed])[crossed]
        nearest.delta[found], nearest.gap[found] = delta, gap[crossed]
        nearest.radius[found] = vector_norm(delta, task.norm)
        missed = missed[~crossed]


def _line_search(task: _Task, nearest: _Crossings) -> Tensor:
    """Follow each image's best ray back to the boundary by the secant rule; forward passes only."""
    candidates = (task.inputs + nearest.delta).clamp(0, 1)
    shortest = scale = torch.ones_like(nearest.radius)
    gap, fall = nearest.gap, nearest.rate * nearest.radius
    for _ in range(LINE_SEARCH):
        last_scale, last_gap = scale, gap
        scale = (scale + gap / fall).clamp(0.5, 1) + NUDGE
        tried = (task.inputs + per_item(scale, candidates) * nearest.delta).clamp(0, 1)
        gap = _gap(task.model(tried), task.labels)
        nearer = (gap < 0) & (scale < shortest)
        candidates = torch.where(per_item(nearer, tried), tried, candidates)
        shortest = torch.where(nearer, scale, shortest)
        secant = (last_gap - gap) / (scale - last_scale)
        fall = torch.where(secant.isfinite(), secant.clamp(fall / 4, fall * 4), fall)
    return candidates


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


def _gap(logits: Tensor, labels: Tensor) -> Tensor:
    """Lead of each label over its best rival, plus the clearance, (n,): negative where the point is a witness."""
    return CLEARANCE * logits.abs().amax(dim=1) - rival_lead(logits, labels)


def _first_least(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Place of each image's least value, (images,), the first of equals; every image owns at least one value."""
    least = values.new_full((images,), torch.inf).scatter_reduce(0, image, values, "amin")
    places = torch.arange(len(values), device=values.device)
    places = torch.where(values <= least[image], places, len(values))
    return torch.full_like(least, len(values), dtype=torch.long).scatter_reduce(0, image, places, "amin")
