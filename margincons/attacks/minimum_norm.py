"""Our minimum-norm attack: Newton's rule on the radius and steepest descent on the direction, at once.

For a rival class t let V(r) be the least lead over t of the class to leave, within radius r of the image and inside
the pixel box. The input margin is the least root of V over all rivals. One backward pass at x + delta gives the
lead (the *gap*) and its gradient, whose dual norm is minus the slope of V to first order. Each step uses both: the
radius moves by Newton's rule, and delta takes a step of steepest descent (`descent`). A search

1. explores: one descent for each rival that may be the nearest, the unlikely ones dropped after every step; steps
   reach the far side of the ball, and the first balls a little beyond the boundary, so that it is not caught by
   the first local minimum;
2. settles: a second descent from the nearest crossing, shaken where the effort says so, with shorter steps;
3. before and after that, on small images, tries single pixels (`pixel_exchange`), where the effort says so on the
   way to each rival that is left;
4. follows the best ray back to the boundary, by forward passes only (`crossings`).

Where no rival's boundary was crossed, those that were dropped get a few steps more. A search in L1 ends with a look at
the corner that the gradient at the boundary names.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from margincons.attacks.crossings import Crossings
from margincons.attacks.descent import Descent, descend, descend_to_corner
from margincons.attacks.pixel_exchange import FEW_PIXELS, exchange_for_each_rival, exchange_pixels
from margincons.attacks.randomness import uniform
from margincons.attacks.result import AttackResult, step_outwards
from margincons.classifier import Classifier, Head, check_logits
from margincons.errors import UnknownNameError
from margincons.passes import in_eval_mode
from margincons.threat import check_images, check_labels, check_norm, places, project


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work a search does."""

    rivals: int  # tried per image, at most
    gap_ratio: float  # and none whose gap, over the distance of the head's rows, is so many times the least
    explore: Descent
    settle: tuple[Descent, ...] = ()  # one after the other, each from the best perturbation so far
    each_rival: bool = False  # whether pixels are exchanged on the way to each rival that exploring kept
    small: "Effort | None" = None  # in place of all this, where images are small enough to exchange pixels


_EXPLORE = {"opening": 2, "lengths": (2.0, 2.0), "momentum": (0.05, 0.5), "shrink": 0.75}
_SETTLE = Descent(steps=6, lengths=(0.5, 0.1), momentum=(0.0, 0.7))
EFFORTS = {
    "fast": Effort(
        rivals=3,
        gap_ratio=2.5,
        explore=Descent(steps=8, opening=3, lengths=(1.3, 0.3), momentum=(0.05, 0.8), slack=0.1, decay=0.6),
    ),
    "standard": Effort(
        rivals=6,
        gap_ratio=4,
        explore=Descent(steps=6, slack=0.3, **_EXPLORE),
        settle=(_SETTLE,),
    ),
    "fine": Effort(
        rivals=7,
        gap_ratio=4,
        explore=Descent(steps=6, slack=0.3, decay=0.8, **_EXPLORE),
        settle=(Descent(steps=23, opening=8, lengths=(2.0, 0.06), momentum=(0.05, 0.9)),),
        small=Effort(
            rivals=9,
            gap_ratio=6,
            explore=Descent(steps=6, slack=0.4, decay=0.8, **_EXPLORE),
            settle=(replace(_SETTLE, lengths=(1.5, 0.2)), replace(_SETTLE, steps=7)),
            each_rival=True,
        ),
    ),
    "exhaustive": Effort(
        rivals=9,
        gap_ratio=9,
        explore=Descent(steps=12, slack=1.0, decay=0.8, **_EXPLORE),
        settle=9 * (Descent(steps=30, lengths=(1.3, 0.05), momentum=(0.05, 0.8), slack=0.4, decay=0.8, shaken=0.5),),
    ),
}
EVERY_RIVAL = replace(EFFORTS["exhaustive"], gap_ratio=torch.inf)
L1_STEPS = 3  # steps in L1 for each that an effort names: which few pixels to move is found more slowly


@in_eval_mode
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
        effort: "fast", "standard", "fine" or "exhaustive"; the last draws random numbers.
        seed: Seed of the random starts.
        indices: Each image's place in its data set, (n,), which keys its random starts; its place here if None.
        bf16: Compute all but the last third of each descent in bfloat16; the result is verified in full precision.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label and one index per image, as whole numbers, or the network does not take
            the images, or return logits of two classes or more.
        LabelRangeError: If a label is no class of the network.
        NonFiniteLogitsError: If the network gives NaN or infinity on an image.
        UnknownNameError: If the norm or the effort does not exist.
    """
    candidates = search(model, inputs, labels, norm=norm, effort=effort, seed=seed, indices=indices, bf16=bf16)
    candidates = step_outwards(model, inputs, candidates, labels)
    return AttackResult.judge(model, inputs, candidates, labels, norm=norm)


@torch.no_grad()
@in_eval_mode
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
    exchanging = settings.settle and inputs[0].numel() <= FEW_PIXELS
    if exchanging and settings.small is not None:
        settings = settings.small
    everyone = torch.arange(len(inputs), device=inputs.device)
    indices = places(indices, len(inputs))
    head = Classifier(model, inputs[:1]).head  # names what is wrong with the network, so before any other pass
    logits = check_logits(model(inputs), len(inputs))
    image, rival, prior = _nearest_rivals(logits, labels, head, settings)
    nearest = Crossings.none_yet(model, inputs, labels, norm)
    explore, at_image = _for_norm(settings.explore, norm), torch.zeros_like(inputs)
    pairs = descend(nearest, (image, rival), at_image, explore, prior=prior, bf16=bf16)
    nearest.stretch_misses()
    _try_every_rival(nearest, logits, explore)
    nearest.line_search()
    if exchanging and settings.each_rival:
        exchange_for_each_rival(nearest, pairs)
    if exchanging:
        exchange_pixels(nearest)
    for number, how in enumerate(settings.settle, start=1):
        start = nearest.delta
        if how.shaken:
            draws = uniform(inputs.shape[1:], seed=seed, indices=indices, restart=number, device=inputs.device)
            start = _shaken(nearest, draws.to(inputs), how.shaken)
        pairs = (image, rival) if how.slack else (everyone, nearest.rival)
        descend(nearest, pairs, start, _for_norm(how, norm), bf16=bf16)
        nearest.line_search()
        if exchanging:
            exchange_pixels(nearest)
    if norm == "L1":
        descend_to_corner(nearest)
    return nearest.points()


def _try_every_rival(nearest: Crossings, logits: Tensor, explore: Descent) -> None:
    """Where nothing crossed, keep all rivals for a few steps: the pixel box may hold only one that seemed far."""
    missed = nearest.radius.isinf().nonzero()[:, 0]
    if len(missed) == 0:
        return
    inputs, labels = nearest.inputs[missed], nearest.labels[missed]
    again = Crossings.none_yet(nearest.model, inputs, labels, nearest.norm)
    image, rival, _ = _nearest_rivals(logits[missed], labels, None, EVERY_RIVAL)
    keeping_all = replace(explore, steps=explore.opening + 1, slack=torch.inf)
    descend(again, (image, rival), torch.zeros_like(inputs), keeping_all)
    again.stretch_misses()
    for name in ("radius", "delta", "gap", "rate", "rival"):
        setattr(nearest, name, getattr(nearest, name).index_copy(0, missed, getattr(again, name)))


def _for_norm(how: Descent, norm: str) -> Descent:
    return replace(how, steps=L1_STEPS * how.steps, decay=how.decay ** (1 / L1_STEPS)) if norm == "L1" else how


def _shaken(nearest: Crossings, draws: Tensor, share: float) -> Tensor:
    """The best perturbations with a share of their pixels drawn anew; (n, c, h, w). `draws` are uniform in [0, 1)."""
    fresh = torch.where(draws < share, 2 * draws / share - 1, 0)  # uniform in [-1, 1) where drawn
    return torch.where(draws < share, project(fresh, nearest.radius.clamp(max=1), nearest.norm), nearest.delta)


def _nearest_rivals(logits: Tensor, labels: Tensor, head: Head | None, effort: Effort) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs worth a backward pass, a bounded number per image however many classes there are: image, rival, log gap.

    A gap's gradient is, layer by layer, a linear map of the difference between two rows of the head:
    gaps are comparable across rivals once they are divided by its length.
    """
    check_labels(labels, len(logits), classes=logits.shape[1])
    gaps = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
    gaps, rivals = gaps.topk(min(4 * effort.rivals, gaps.shape[1]), dim=1, largest=False)
    if head is not None:
        gaps = gaps / (head.weight[rivals] - head.weight[labels][:, None]).norm(dim=2)
    gaps, order = gaps.topk(min(effort.rivals, gaps.shape[1]), dim=1, largest=False)
    tried = (gaps <= effort.gap_ratio * gaps[:, :1]) & gaps.isfinite()
    tried[:, 0] = True
    image, place = tried.nonzero(as_tuple=True)
    return image, rivals.gather(1, order)[image, place], gaps[image, place].clamp_min(1e-12).log()
