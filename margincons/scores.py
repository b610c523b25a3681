"""Cheap scores of brittleness: one number per image, from one forward pass.

Every score is a function of logits, and some of features and the head too. `SCORES` declares for each whether
it falls or rises with brittleness; that sign is part of the definition and never taken from data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.classifier import Head, Outputs
from margincons.errors import ShapeError, UnknownNameError, UsageError
from margincons.passes import in_eval_mode
from margincons.threat import check_images, dual_norm, vector_norm

_ORDER = {"Linf": torch.inf, "L2": 2.0, "L1": 1.0}


def logit_margin(logits: Tensor) -> Tensor:
    """Top logit minus runner-up, in logits.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 2.

    Args:
        logits: Logits (n, k), k >= 2.

    Returns:
        One margin per image, (n,), never negative.

    Raises:
        ShapeError: If there are fewer than two classes.
    """
    _check_classes(logits)
    top, predicted = logits.max(dim=1)
    return top - logits.scatter(1, predicted[:, None], -torch.inf).amax(dim=1)  # half the time of topk


def _check_classes(logits: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ShapeError("logits", "(n, k) with k >= 2", tuple(logits.shape))


def feature_margin(logits: Tensor, head: Head, *, norm: str) -> Tensor:
    """Exact distance from the features to the decision boundary of the head, in feature units.

    The least of (f_i - f_j) / ||w_i - w_j||_q over rivals j, with q dual to ``norm``. A rival with the same
    weights as the predicted class is never reached: its distance is infinite.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3.

    Args:
        logits: Logits (n, k).
        head: The last linear layer.
        norm: Norm of the feature space.

    Returns:
        One distance per image, (n,).
    """
    return nearest_boundary(logits, class_distances(head, norm=norm))


def nearest_boundary(logits: Tensor, lengths: Tensor) -> Tensor:
    """The least gap to a rival divided by its length, (n,), from logits (n, k) and `class_distances` (k, k)."""
    predicted = logits.argmax(dim=1)
    gaps = logits.gather(1, predicted[:, None]) - logits
    distances = torch.where(lengths[predicted] > 0, gaps / lengths[predicted], torch.inf)
    return distances.scatter(1, predicted[:, None], torch.inf).amin(dim=1)


def class_distances(head: Head, *, norm: str) -> Tensor:
    """Distances between the classes' weights, (k, k), in the dual of ``norm``: logits per unit of feature distance."""
    exact = "donot_use_mm_for_euclid_dist"  # the product form cancels where two classes are close
    return torch.cdist(head.weight, head.weight, p=_ORDER[dual_norm(norm)], compute_mode=exact)


def probability_margin(logits: Tensor) -> Tensor:
    """Top softmax probability minus runner-up, (n,), in [0, 1]."""
    return logit_margin(logits.softmax(dim=1))


def max_probability(logits: Tensor) -> Tensor:
    """Largest softmax probability, (n,).

    Source: Hendrycks and Gimpel, 2017, arXiv:1610.02136.
    """
    return logits.softmax(dim=1).amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax, (n,), in nats."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


def energy(logits: Tensor) -> Tensor:
    """Minus the log-sum-exp of the logits, (n,).

    Source: Liu et al., 2020, arXiv:2010.03759.
    """
    return -logits.logsumexp(dim=1)


def doctor(logits: Tensor) -> Tensor:
    """Odds that a label drawn from the softmax is not the one drawn a second time, (n,): (1 - g) / g, g = sum of p^2.

    DOCTOR's D_alpha; its other score, D_beta, orders images as `max_probability` does. 1 - g is summed as p (1 - p),
    the largest p's complement over the other classes, so that it does not cancel where the network is sure. It is not
    in `SCORES`, whose names are the columns of records.

    Source: Granese et al., 2021, "DOCTOR: a simple method for detecting misclassification errors", arXiv:2106.02395.
    """
    chances = logits.softmax(dim=1)
    top = chances.argmax(dim=1, keepdim=True)
    others = chances.scatter(1, top, 0.0)
    rest = others.sum(dim=1, keepdim=True)
    apart = (chances.gather(1, top) * rest)[:, 0] + (others * (1 - others)).sum(dim=1)
    return apart / chances.square().sum(dim=1)


@in_eval_mode
def first_order_margin(model: nn.Module, inputs: Tensor, *, norm: str, rivals: int = 9) -> Tensor:
    """Distance to the nearest linearised boundary: one backward pass per rival, no search.

    The least of (f_i - f_j) / ||grad (f_i - f_j)||_q over rivals j, with q dual to ``norm``: exact for a linear network
    without a pixel box, an estimate for any other, and neither an upper nor a lower bound. It is not in `SCORES`,
    because it takes gradients.

    Source: Moosavi-Dezfooli et al., 2016, arXiv:1511.04599, whose first step it is.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Images (n, c, h, w); one batch.
        norm: "Linf", "L2" or "L1".
        rivals: How many rivals are tried, by falling logit; all where there are fewer.

    Returns:
        One distance per image, (n,); infinite where no gap has a gradient.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        UsageError: If there is no rival to try.
        ShapeError: If there are fewer than two classes.
    """
    check_images(inputs)
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        return linearised_distance(model(inputs), inputs, norm=norm, rivals=rivals).detach()


def linearised_distance(logits: Tensor, inputs: Tensor, *, norm: str, rivals: int = 9) -> Tensor:
    """The first-order margin of a pass that was made already, differentiable in the gaps; slopes count as constants.

    For a piecewise linear network they are constant, so that almost everywhere this is its gradient.

    Args:
        logits: What a network gave (n, k), with the graph of the pass.
        inputs: The images (n, c, h, w) it was given, which require a gradient.
        norm: "Linf", "L2" or "L1".
        rivals: As in `first_order_margin`.
    """
    distances = []
    for gap, gradient in gaps_and_gradients(logits, inputs, rivals=rivals):
        slope = vector_norm(gradient, dual_norm(norm))
        distances.append(torch.where(slope > 0, gap / slope.where(slope > 0, 1), torch.inf))
    return torch.stack(distances).amin(dim=0)


def gaps_and_gradients(logits: Tensor, inputs: Tensor, *, rivals: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The top logit's lead over each of the next, (n,), and its gradient, (n, c, h, w): one backward pass per rival.

    Args:
        logits: What a network gave (n, k), with the graph of the pass.
        inputs: The images (n, c, h, w) it was given, which require a gradient.
        rivals: How many rivals, by falling logit; all where there are fewer.

    Raises:
        UsageError: If that is none.
        ShapeError: If there are fewer than two classes.
    """
    if rivals < 1:
        raise UsageError(f"Expected one rival or more, got {rivals}.")
    _check_classes(logits)
    top = logits.topk(min(rivals + 1, logits.shape[1]), dim=1).values
    for rival in range(1, top.shape[1]):
        gap = top[:, 0] - top[:, rival]
        (gradient,) = torch.autograd.grad(gap.sum(), inputs, retain_graph=True)
        yield gap, gradient


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score and what it means."""

    compute: Callable[[Outputs, Head | None, str], Tensor]  # outputs, head, norm -> (n,)
    brittle_when: str  # "low" or "high"
    needs_head: bool = False


SCORES = {
    "logit_margin": Score(compute=lambda out, head, norm: logit_margin(out.logits), brittle_when="low"),
    "feature_margin": Score(
        compute=lambda out, head, norm: feature_margin(out.logits, head, norm=norm),
        brittle_when="low",
        needs_head=True,
    ),
    "probability_margin": Score(compute=lambda out, head, norm: probability_margin(out.logits), brittle_when="low"),
    "max_probability": Score(compute=lambda out, head, norm: max_probability(out.logits), brittle_when="low"),
    "entropy": Score(compute=lambda out, head, norm: entropy(out.logits), brittle_when="high"),
    "energy": Score(compute=lambda out, head, norm: energy(out.logits), brittle_when="high"),
}


LEARNED = {"pseudo_margin": "low"}  # scores that are fitted first; their signs are declared all the same
NOT_RECORDED = {  # nor are these columns of records, since most cost more than a forward pass
    "doctor": "high",
    "first_order_margin": "low",
    "first_order_runner_up": "low",  # with the second class as its only rival
    "gradient_norm": "high",
    "neighbour_distance": "high",
    "clever": "low",
    "smoothing_radius": "low",
    "interval_radius": "low",
    "crown_radius": "low",
    "fast_attack": "low",
}


def robustness_sign(score: str) -> int:
    """+1 for a score that is low on brittle images, -1 for one that is high on them.

    Raises:
        UnknownNameError: If no score has that name.
    """
    declared = {name: known.brittle_when for name, known in SCORES.items()} | LEARNED | NOT_RECORDED
    if score not in declared:
        raise UnknownNameError("score", score, declared)
    return 1 if declared[score] == "low" else -1


def all_scores(outputs: Outputs, head: Head | None, *, norm: str) -> dict[str, Tensor]:
    """Every score that this network allows, by name, each (n,); those that need a head are left out without one."""
    return {
        name: score.compute(outputs, head, norm)
        for name, score in SCORES.items()
        if head is not None or not score.needs_head
    }
