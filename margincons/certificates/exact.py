"""Exact input margins of small ReLU networks, by mixed-integer programming.

For each class t that linear relaxation cannot rule out: the least distance at which f_t reaches f_c, given that it is
below the best found so far. Three tools in turn, each for what the one before leaves: branching on CROWN bounds drops
most classes, linear programs narrow what survives, and a branch and bound over linear programs (`least_distance`)
closes it. Every answer is a pair [dual bound, incumbent], proved and found.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from margincons.attacks.result import AttackResult, rival_lead
from margincons.brief import Brief
from margincons.certificates.boxes import Ball, whole_box_radius
from margincons.certificates.branching import ROUNDING, surviving_boxes
from margincons.certificates.certified import certified_radius, class_gaps
from margincons.certificates.least_distance import least_distance
from margincons.certificates.nearby import nearby_adversarial
from margincons.certificates.program import tighten
from margincons.certificates.relu_graph import ReluGraph
from margincons.certificates.tracing import relu_graph
from margincons.certificates.witnesses import push_over
from margincons.threat import check_images, check_norm, vector_norm

AGREEMENT = 1e-6  # of dual bound and incumbent, for a margin to be called optimal
FEW = 8  # unstable ReLUs that the search deals with faster than linear programs can narrow their bounds
ROUNDS = 2  # of linear programs that narrow bounds before the search
GROWTH = 1.2  # of the ball while it is found empty; a ball much larger than the margin is slow to search
MOST = 512  # branches to split a ball into before linear programs take over


@dataclass(frozen=True, kw_only=True, repr=False)
class ExactMargins(Brief):
    """What was proved and what was found about each image's input margin.

    The margin is the least distance at which another class is level with the predicted one. Where argmax breaks
    the tie for the predicted class (the first of equals), the incumbent itself is not yet misclassified: `witness`
    is a point next to it that is, looked for outwards and up the rival's lead, at most 1% farther or 0.01 (L2) away.
    It is no part of what is proved, and its ``success`` is False where that search found none: classes may be level
    without either ever leading clearly. A margin can even be 0 without a witness at 0.
    """

    lower: Tensor  # (n,), dual bound: no adversarial image is nearer; infinite where there is none
    upper: Tensor  # (n,), distance of the incumbent; infinite where none was found
    status: tuple[str, ...]  # "optimal" (they agree within 1e-6), "infeasible" (both infinite) or "time_limit"
    incumbent: Tensor  # (n, c, h, w), the point at that distance; the clean image where there is none
    lead: Tensor  # (n,), of the best rival at the incumbent, by the network itself in its own precision: about 0
    witness: AttackResult  # the incumbent pushed over the boundary until it is adversarial in any batch
    seconds: Tensor  # (n,)


@torch.no_grad()
def exact_margins(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str = "Linf",
    upper: Tensor | None = None,
    labels: Tensor | None = None,
    time_limit: float = 60.0,
    jobs: int = 1,
) -> ExactMargins:
    """Solve the input margins of a small ReLU network exactly, image by image.

    Correct to about 1e-6, the solver's tolerance, for the network in exact arithmetic. L2 balls are not linear:
    tangents are added until bound and incumbent meet, which may take the whole time limit.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode; see `relu_graph` for its layers.
        inputs: Images (n, c, h, w) in [0, 1].
        norm: "Linf", "L2" or "L1".
        upper: Bounds on the margins from an attack, (n,); they save time and are not relied on.
        labels: Classes to leave, (n,); the predictions unless given.
        time_limit: Seconds per image; what is known by then is returned.
        jobs: Images solved at once, in threads.

    Raises:
        UnsupportedLayerError: If the network has a layer that cannot be written down.
        PixelRangeError: If a pixel leaves [0, 1].
    """
    check_images(inputs)
    check_norm(norm)
    inputs = inputs.detach()
    graph = relu_graph(model, inputs)
    labels = model(inputs).argmax(dim=1) if labels is None else labels
    upper = torch.full((len(inputs),), torch.inf) if upper is None else upper
    tasks = [(image[None].double(), int(c), float(u)) for image, c, u in zip(inputs, labels, upper, strict=True)]

    def solve(task: tuple[Tensor, int, float]) -> tuple[float, Tensor | None, float]:
        image, label, bound = task
        start = time.monotonic()
        lower, found = _image_margin(graph, image, label, norm=norm, bound=bound, deadline=start + time_limit)
        return lower, found, time.monotonic() - start

    with ThreadPoolExecutor(jobs) as pool:
        solved = list(pool.map(solve, tasks))
    return _collect(model, inputs, labels, norm, solved)


def _image_margin(
    graph: ReluGraph, image: Tensor, label: int, *, norm: str, bound: float, deadline: float
) -> tuple[float, Tensor | None]:
    """Search balls of growing radius until one holds an adversarial image or the whole pixel box is searched."""
    labels = torch.tensor([label])
    if rival_lead(graph(image), labels) >= 0:
        return 0.0, image
    limit = whole_box_radius(image, norm)
    lower = certified_radius(graph, image, labels, norm=norm).item()
    near = nearby_adversarial(graph, image, label, norm=norm)
    if near is not None:
        bound = min(bound, vector_norm(near - image, norm).item())
    radius = bound * (1 + 1e-4) + AGREEMENT if bound < np.inf else GROWTH * lower
    while True:
        radius = min(radius, limit)
        proved, found = _search(graph, Ball(image, image.new_tensor([radius]), norm), label, lower, deadline)
        lower = max(lower, proved)
        if found is not None or lower < radius:
            return lower, near if found is None else found
        if radius == limit:
            return np.inf, None
        radius *= GROWTH


def _search(graph: ReluGraph, ball: Ball, label: int, lower: float, deadline: float) -> tuple[float, Tensor | None]:
    """Nearest adversarial image of a ball over all classes, and a radius within which there is none."""
    gaps = class_gaps(graph, ball, torch.tensor([label]))[0]
    proved, found = ball.radius.item(), None
    for target in gaps.argsort().tolist():
        if gaps[target] > ROUNDING:
            break
        dual, point = _search_class(graph, ball, (label, target), lower, deadline)
        if point is not None:
            found = point
            ball = Ball(ball.centre, vector_norm(point - ball.centre, ball.norm), ball.norm)
        proved = min(proved, dual, ball.radius.item())
    return proved, found


def _search_class(
    graph: ReluGraph, ball: Ball, pair: tuple[int, int], lower: float, deadline: float
) -> tuple[float, Tensor | None]:
    """Nearest image of a ball where class ``pair[1]`` is level with class ``pair[0]``, and a bound on its distance."""
    form = graph.gap_forms(torch.tensor([pair[0]]))[0, pair[1]]
    boxes = surviving_boxes(graph, ball, form, most=MOST, deadline=deadline)
    for _ in range(ROUNDS):
        if boxes is None or sum(int(box.unstable.sum()) for box in boxes.values()) <= FEW:
            break
        boxes = tighten(graph, ball, boxes, form.numpy(), deadline=deadline)
    if boxes is None:
        return ball.radius.item(), None
    outcome = least_distance(graph, ball, boxes, form, lower=lower, deadline=deadline)
    return outcome.lower, outcome.point


def _collect(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: str,
    solved: Sequence[tuple[float, Tensor | None, float]],
) -> ExactMargins:
    lower = torch.tensor([low for low, _, _ in solved], dtype=torch.float64)
    found = torch.tensor([point is not None for _, point, _ in solved])
    incumbent = torch.cat(
        [image[None].double() if point is None else point for image, (_, point, _) in zip(inputs, solved, strict=True)]
    )
    upper = vector_norm(incumbent - inputs, norm).masked_fill(~found, torch.inf)
    lower = torch.where(found, torch.minimum(lower, upper), lower)
    status = tuple(
        "infeasible" if low == np.inf else "optimal" if up - low <= AGREEMENT else "time_limit"
        for low, up in zip(lower.tolist(), upper.tolist(), strict=True)
    )
    incumbent = incumbent.to(inputs.dtype)
    lead = rival_lead(model(incumbent), labels)
    return ExactMargins(
        lower=lower,
        upper=upper,
        status=status,
        incumbent=incumbent,
        lead=lead,
        witness=push_over(model, inputs, incumbent, labels, found=found, norm=norm),
        seconds=torch.tensor([seconds for _, _, seconds in solved]),
    )
