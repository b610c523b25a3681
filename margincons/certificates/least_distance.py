"""Least distance at which a class is left: branch and bound on the signs of ReLUs, over linear programs.

The best-first search of mixed-integer programming (Tjeng, Xiao, Tedrake, 2019, arXiv:1711.07356), with linear
relaxation of the network in each branch. It is written out here because HiGHS 1.12, whose simplex solves the linear
programs, cuts off the optimum in about 1 of 100 of these problems when it does the branching too.
"""

import heapq
import time
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from margincons.certificates.boxes import Ball, Interval
from margincons.certificates.branching import surviving_boxes
from margincons.certificates.program import INFEASIBLE, Encoding, add_radius, encode
from margincons.certificates.projection import nearest_in_region
from margincons.certificates.relu_graph import ReluGraph
from margincons.threat import vector_norm

CLOSED = 1e-7  # gap of bound and incumbent at which a search ends, and error of a ReLU that counts as none
FEW = 64  # branches without linear programs, inside one with
LEVEL = 1e-9  # gap of two logits that counts as none: double precision's, summed over layers


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search of a ball has proved and found."""

    lower: float  # nothing in the ball is nearer; the ball's radius where nothing is left to search
    point: Tensor | None  # (1, c, h, w), the nearest that was found


def least_distance(
    graph: ReluGraph, ball: Ball, boxes: dict[int, Interval], form: Tensor, *, lower: float, deadline: float
) -> Outcome:
    """Find the image of a ball nearest to its centre where a linear form of the logits is at most 0.

    Args:
        graph: The network.
        ball: Round one image.
        boxes: Bounds of every ReLU's input, wherever in the ball the form is at most 0.
        form: Coefficients on the logits, (k,).
        lower: A distance known to be too short.
        deadline: Time (monotonic) at which to stop.
    """
    found, tangents, order = None, np.empty((0, ball.centre.numel())), count()
    branches = [(lower, next(order), boxes)]
    proved = np.inf  # over the branches that are closed
    while branches and branches[0][0] < ball.radius - CLOSED and time.monotonic() < deadline:
        lower, _, boxes = heapq.heappop(branches)
        encoding = encode(graph, ball, boxes)
        distance = add_radius(encoding, ball, tangents)
        encoding.program.require(form.numpy()[None] @ encoding.logits)
        result = encoding.program.minimise(distance)
        if result.status == INFEASIBLE:
            continue
        if result.x is None:  # the solver gave up
            proved = min(proved, lower)
            continue
        lower = max(lower, result.fun)
        index, unit, error = _worst_relu(encoding, boxes, result.x)
        point = torch.from_numpy(result.x[: ball.centre.numel()]).view_as(ball.centre)
        if error < CLOSED and ball.norm == "L2":
            point = nearest_in_region(graph, ball, form, point)
        point = settle(graph, ball.centre, point, form)
        length = vector_norm(point - ball.centre, ball.norm)
        if length <= ball.radius and graph(point)[0] @ form <= LEVEL:
            found, ball = point, Ball(ball.centre, length, ball.norm)
        if error >= CLOSED:
            for half in _halves(boxes, index, unit):
                narrowed = surviving_boxes(graph, ball, form, most=FEW, deadline=deadline, limits=half)
                if narrowed is not None:
                    heapq.heappush(branches, (lower, next(order), narrowed))
        elif ball.norm == "L2" and length > lower + CLOSED:
            tangents = np.vstack([tangents, ((point - ball.centre) / length).flatten().numpy()])
            heapq.heappush(branches, (lower, next(order), boxes))
        else:
            proved = min(proved, lower)
    return Outcome(lower=min([ball.radius.item(), proved, *(bound for bound, _, _ in branches)]), point=found)


def settle(graph: ReluGraph, centre: Tensor, point: Tensor, form: Tensor) -> Tensor:
    """Make good what the solver's tolerance left of a form: outwards, or downhill where pixels are at their end."""
    with torch.enable_grad():
        watched = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(graph(watched)[0] @ form, watched)
    steps = torch.tensor([0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5], dtype=point.dtype).view(-1, 1, 1, 1)
    outwards = point + steps * (point - centre)
    downhill = point - steps * slope / slope.norm().clamp_min(torch.finfo(slope.dtype).tiny)
    candidates = torch.stack([outwards, downhill], dim=1).flatten(0, 1).clamp(0, 1)
    settled = (graph(candidates) @ form <= LEVEL).nonzero()[:, 0]
    return candidates[settled[:1]] if len(settled) else point.clamp(0, 1)


def _worst_relu(encoding: Encoding, boxes: dict[int, Interval], solution: NDArray) -> tuple[int, int, float]:
    """The unstable ReLU that a solution of the relaxation gets most wrong, and by how much."""
    worst = (0, 0, 0.0)
    for index, box in boxes.items():
        inputs, outputs = (
            expressions[:, 0] + expressions[:, 1:] @ solution[: expressions.shape[1] - 1]
            for expressions in (encoding.relu_inputs[index], encoding.relu_outputs[index])
        )
        error = (outputs - inputs.clip(min=0)) * box.unstable.flatten().numpy()
        if error.max() > worst[2]:
            worst = (index, int(error.argmax()), error.max())
    return worst


def _halves(boxes: dict[int, Interval], index: int, unit: int) -> list[dict[int, Interval]]:
    off, on = boxes[index].upper.clone(), boxes[index].lower.clone()
    off.flatten()[unit], on.flatten()[unit] = 0.0, 0.0
    halves = Interval(boxes[index].lower, off), Interval(on, boxes[index].upper)
    return [{**boxes, index: half} for half in halves]
