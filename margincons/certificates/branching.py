"""Branch and bound on the signs of ReLUs: what is left of a ball once linear relaxation has had its say.

Source: Bunel et al., 2020, "Branch and bound for piecewise linear neural network verification", arXiv:1909.06588.
A branch is a set of signs for some ReLU inputs. All branches are bounded at once; those where the gap is proved
positive, or that are empty, are dropped; each of the others is split on the ReLU whose chord costs the bound most.
"""

import time

import torch
from torch import Tensor

from margincons.certificates.boxes import Ball, Interval
from margincons.certificates.crown import crown_boxes, lower_bound
from margincons.certificates.relu_graph import ReluGraph

ROUNDING = 1e-9  # by which a form must be positive, or a lower bound above an upper one, to count as proved


def surviving_boxes(
    graph: ReluGraph,
    ball: Ball,
    form: Tensor,
    *,
    most: int,
    deadline: float,
    limits: dict[int, Interval] | None = None,
) -> dict[int, Interval] | None:
    """Bound every ReLU's input over the part of a ball where a linear form of the logits may be at most 0.

    Args:
        graph: The network.
        ball: Round one image.
        form: Coefficients on the logits, (k,).
        most: Branches at which to stop splitting.
        deadline: Time (monotonic) at which to stop splitting.
        limits: What is demanded of ReLU inputs from the start.

    Returns:
        Boxes round all surviving branches, by ReLU input; None where the form is positive on the whole ball.
    """
    if not graph.relu_inputs:
        return {}
    units = sum(graph.size(index) for index in graph.relu_inputs)
    low, high = ball.centre.new_full((1, units), -torch.inf), ball.centre.new_full((1, units), torch.inf)
    if limits is not None:
        low, high = _flat(graph, limits)
    settled_low, settled_high = low[:0], high[:0]  # branches without an unstable ReLU cannot be split
    while len(low):
        many = Ball(ball.centre.expand(len(low), -1, -1, -1), ball.radius.expand(len(low)), ball.norm)
        boxes = crown_boxes(graph, many, limits=_by_node(graph, low, high))
        losses: dict[int, Tensor] = {}
        last = len(graph.nodes) - 1
        bound = lower_bound(graph, many, boxes, last, form.expand(len(low), 1, -1), losses=losses)[:, 0]
        low, high = _flat(graph, boxes)
        cost = torch.cat([losses[index].flatten(1) for index in graph.relu_inputs], dim=1)
        alive = (bound <= ROUNDING) & (low <= high + ROUNDING).all(dim=1)
        low, high, cost = low[alive], high[alive], cost[alive]
        unstable = (low < 0) & (high > 0)
        stuck = ~unstable.any(dim=1)
        if len(low) + len(settled_low) > most or time.monotonic() > deadline:
            stuck = torch.ones_like(stuck)
        settled_low, settled_high = torch.cat([settled_low, low[stuck]]), torch.cat([settled_high, high[stuck]])
        low, high = low[~stuck], high[~stuck]
        worst = torch.where(unstable, cost, -1.0)[~stuck].argmax(dim=1, keepdim=True)
        low, high = torch.cat([low, low.scatter(1, worst, 0.0)]), torch.cat([high.scatter(1, worst, 0.0), high])
    if len(settled_low) == 0:
        return None
    return _by_node(graph, settled_low.amin(dim=0, keepdim=True), settled_high.amax(dim=0, keepdim=True))


def _flat(graph: ReluGraph, boxes: dict[int, Interval]) -> tuple[Tensor, Tensor]:
    lower, upper = zip(*((boxes[index].lower, boxes[index].upper) for index in graph.relu_inputs), strict=True)
    return torch.cat([end.flatten(1) for end in lower], dim=1), torch.cat([end.flatten(1) for end in upper], dim=1)


def _by_node(graph: ReluGraph, low: Tensor, high: Tensor) -> dict[int, Interval]:
    sizes = [graph.size(index) for index in graph.relu_inputs]
    return {
        index: Interval(lower.unflatten(1, graph.nodes[index].shape), upper.unflatten(1, graph.nodes[index].shape))
        for index, lower, upper in zip(graph.relu_inputs, low.split(sizes, 1), high.split(sizes, 1), strict=True)
    }
