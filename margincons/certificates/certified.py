"""Certified lower bounds of input margins: the largest radius at which linear relaxation still proves the class."""

import torch
from torch import Tensor, nn

from margincons.certificates.boxes import Ball, propagate, whole_box_radius
from margincons.certificates.crown import crown_boxes, lower_bound
from margincons.certificates.relu_graph import ReluGraph
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
) -> Tensor:
    """Radii within which no image of the pixel box leaves its class, whatever the attack.

    Computed in double precision on the network's own weights. Logits in float32 differ from these by about 1e-6 of
    their size, so a bound holds for the network as it runs to about that fraction of the margin.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode; see `relu_graph` for its layers.
        inputs: Images (n, c, h, w) in [0, 1].
        norm: "Linf", "L2" or "L1".
        method: "interval" or the slower and tighter "crown".
        labels: Classes to keep, (n,); the predictions unless given. The bound is 0 where another class is ahead.
        tolerance: Relative width to which the radius is searched; what is returned is the certified end.
        batch_size: Images bounded at once.

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
    graph = relu_graph(model, inputs)
    labels = graph(inputs).argmax(dim=1) if labels is None else labels
    return torch.cat(
        [
            certified_radius(graph, part, classes, norm=norm, method=method, tolerance=tolerance)
            for part, classes in zip(inputs.double().split(batch_size), labels.split(batch_size), strict=True)
        ]
    )


def class_gaps(graph: ReluGraph, ball: Ball, labels: Tensor, method: str) -> Tensor:
    """Lower bounds of f_c - f_t over the ball, (n, k), for c the label and t every class; infinite at t = c."""
    forms = graph.gap_forms(labels)
    boxes = propagate(graph, ball) if method == "interval" else crown_boxes(graph, ball)
    last = len(graph.nodes) - 1
    gaps = lower_bound(graph, ball, boxes, last, forms, relax=False)
    if method == "crown":
        gaps = torch.maximum(gaps, lower_bound(graph, ball, boxes, last, forms))
    return gaps.scatter(1, labels[:, None], torch.inf)


def certified_radius(
    graph: ReluGraph, inputs: Tensor, labels: Tensor, *, norm: str, method: str = "crown", tolerance: float = 1e-3
) -> Tensor:
    """Close in on the radius at which the least gap is no longer proved positive (Illinois' rule, per image)."""

    def least_gap(radius: Tensor, which: Tensor) -> Tensor:
        return class_gaps(graph, Ball(inputs[which], radius, norm), labels[which], method).amin(dim=1)

    limit = whole_box_radius(inputs, norm)
    active = torch.arange(len(inputs), device=inputs.device)
    low = inputs.new_zeros(len(inputs))  # certified, and by how much
    gap_low = least_gap(low, active)
    high, gap_high = torch.full_like(low, torch.inf), torch.zeros_like(low)  # not certified
    high[gap_low <= 0] = 0.0
    step = torch.full_like(low, 1e-6 * limit)
    slope = (gap_low - least_gap(step, active)) / step
    radius = (gap_low / slope.clamp_min(torch.finfo(slope.dtype).tiny)).clamp(max=limit)
    while True:
        active = ((low < (1 - tolerance) * high) & (low < limit)).nonzero()[:, 0]
        if len(active) == 0:
            return torch.where(low < limit, low, torch.inf)
        tried = radius[active]
        gap = least_gap(tried, active)
        sure = gap > 0
        up, down = active[sure], active[~sure]
        gap_high[up] /= 2  # an end that stays is trusted less, or the other one would creep
        gap_low[down] /= 2
        low[up], gap_low[up] = tried[sure], gap[sure]
        high[down], gap_high[down] = tried[~sure], gap[~sure]
        between = low + (high - low) * gap_low / (gap_low - gap_high)
        width = (high - low) * 0.01
        between = torch.maximum(torch.minimum(between, high - width), low + width)
        radius = torch.where(high < torch.inf, between, (2 * radius).clamp(max=limit))
