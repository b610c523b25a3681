"""Certified lower bounds of input margins: the largest radius at which linear relaxation still proves the class."""

import torch
from torch import Tensor, nn

from margincons.certificates.boxes import Ball, propagate, whole_box_radius
from margincons.certificates.crown import REFINE, crown_boxes, lower_bound
from margincons.certificates.relu_graph import ReluGraph
from margincons.certificates.roots import last_positive
from margincons.certificates.tracing import relu_graph
from margincons.errors import UnknownNameError, UsageError
from margincons.threat import check_images, check_norm

METHODS = ("interval", "crown")


@torch.no_grad()
def lower_bounds(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str = "Linf",
    method: str = "crown",
    labels: Tensor | None = None,
    tolerance: float = 1e-3,
    batch_size: int = 16,
    refine: int = REFINE,
) -> Tensor:
    """Radii within which no image of the pixel box leaves its class, whatever the attack.

    Computed in double precision on the network's own weights. In float32 logits differ by about 1e-6 of their size,
    and a gap of two logits by as much. So the network as it runs may leave the class a little inside a bound: by
    about 1e-6 * (largest logit) / (gap at the image) of it, 1e-5 for a gap of a tenth of the logits, all of it for a
    gap that rounding can bridge. A witness leads by more than that (`attacks.result`), so none is below a bound.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode; see `relu_graph` for its layers.
        inputs: Images (n, c, h, w) in [0, 1].
        norm: "Linf", "L2" or "L1".
        method: "interval" or the slower and tighter "crown".
        labels: Classes to keep, (n,); the predictions unless given. The bound is 0 where another class is ahead.
        tolerance: Relative width to which the radius is searched; what is returned is the certified end.
        batch_size: Images bounded at once.
        refine: Layers with more undecided ReLUs than this keep interval bounds inside CROWN: faster and looser.

    Returns:
        Lower bounds of the input margins, (n,), double; infinite where the whole pixel box is certified.

    Raises:
        UnsupportedLayerError: If the network has a layer that cannot be bounded.
        PixelRangeError: If a pixel leaves [0, 1].
    """
    check_images(inputs)
    check_norm(norm)
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if not 0 < tolerance < 1:
        raise UsageError(f"Expected a tolerance between 0 and 1, got {tolerance:g}.")
    inputs = inputs.detach()
    graph = relu_graph(model, inputs)
    labels = model(inputs).argmax(dim=1) if labels is None else labels
    return torch.cat(
        [
            certified_radius(graph, part, classes, norm=norm, method=method, tolerance=tolerance, refine=refine)
            for part, classes in zip(inputs.double().split(batch_size), labels.split(batch_size), strict=True)
        ]
    )


def class_gaps(graph: ReluGraph, ball: Ball, labels: Tensor, *, method: str = "crown", refine: int = REFINE) -> Tensor:
    """Lower bounds of f_c - f_t over the ball, (n, k), for c the label and t every class; infinite at t = c."""
    forms = graph.gap_forms(labels)
    boxes = propagate(graph, ball) if method == "interval" else crown_boxes(graph, ball, refine=refine)
    last = len(graph.nodes) - 1
    gaps = lower_bound(graph, ball, boxes, last, forms, relax=False)
    if method == "crown":
        gaps = torch.maximum(gaps, lower_bound(graph, ball, boxes, last, forms))
    return gaps.scatter(1, labels[:, None], torch.inf)


def certified_radius(
    graph: ReluGraph,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    method: str = "crown",
    tolerance: float = 1e-3,
    refine: int = REFINE,
) -> Tensor:
    """Close in on the radius at which the least gap is no longer proved positive; return the certified end."""
    limit = whole_box_radius(inputs, norm)

    def least_gap(radius: Tensor, which: Tensor) -> Tensor:
        ball = Ball(inputs[which], radius, norm)
        return class_gaps(graph, ball, labels[which], method=method, refine=refine).amin(dim=1)

    everyone = torch.arange(len(inputs))
    step = inputs.new_full((len(inputs),), 1e-6 * limit)
    gap = least_gap(0 * step, everyone)
    slope = (gap - least_gap(step, everyone)) / step
    high = (gap / slope.clamp_min(torch.finfo(slope.dtype).tiny) / 2).clamp(max=limit)
    low, gap_high = torch.zeros_like(high), torch.zeros_like(gap)
    open_ended = everyone[gap > 0]
    while len(open_ended):
        tried = least_gap(high[open_ended], open_ended)
        sure = open_ended[tried > 0]
        gap_high[open_ended] = tried
        low[sure], gap[sure] = high[sure], tried[tried > 0]
        open_ended = sure[low[sure] < limit]
        high[open_ended] = (2 * high[open_ended]).clamp(max=limit)
    between = everyone[(gap > 0) & (low < limit)]
    low[between] = last_positive(
        lambda radius, which: least_gap(radius, between[which]),
        low[between],
        high[between],
        (gap[between], gap_high[between]),
        tolerance=tolerance,
    )
    return torch.where(low < limit, low, torch.inf)
