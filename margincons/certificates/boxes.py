"""Interval bound propagation: every unit of the network, boxed in turn.

Source: Gowal et al., 2018, arXiv:1810.12715. A box with centre c and half-width h goes through an affine layer as
W c + b and |W| h, through a ReLU end by end, through a sum end by end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from margincons.certificates.relu_graph import Add, Relu, ReluGraph
from margincons.threat import dual_norm, per_item, vector_norm


@dataclass(frozen=True)
class Interval:
    """Lower and upper bounds of every unit of a node, (n, *shape) both."""

    lower: Tensor
    upper: Tensor

    @property
    def unstable(self) -> Tensor:
        """Whether a ReLU of these units may be on or off, (n, *shape)."""
        return (self.lower < 0) & (self.upper > 0)

    def intersect(self, other: "Interval") -> "Interval":
        """What both allow; empty (lower > upper) where they exclude each other."""
        return Interval(torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper))

    def minimum(self, coefficients: Tensor) -> Tensor:
        """Least value of linear forms (n, s, *shape) over the box, (n, s)."""
        ends = torch.where(coefficients > 0, self.lower.unsqueeze(1), self.upper.unsqueeze(1))
        return (coefficients * ends).flatten(2).sum(dim=2)


@dataclass(frozen=True)
class Ball:
    """The images within a radius of each image, inside the pixel box."""

    centre: Tensor  # (n, c, h, w), double
    radius: Tensor  # (n,), double
    norm: str

    @property
    def box(self) -> Interval:
        """The smallest box round the ball; for Linf the ball itself."""
        radius = per_item(self.radius, self.centre)
        return Interval((self.centre - radius).clamp(min=0), (self.centre + radius).clamp(max=1))

    def minimum(self, coefficients: Tensor) -> Tensor:
        """A lower bound of linear forms (n, s, c, h, w) over the ball, (n, s); exact for Linf.

        For L2 and L1 it is the better of two bounds: the box's, and the dual norm's over the pixels that can move
        downhill (a black pixel cannot go darker).
        """
        by_box = self.box.minimum(coefficients)
        if self.norm == "Linf":
            return by_box
        centre = self.centre.unsqueeze(1)
        free = torch.where(coefficients > 0, centre > 0, centre < 1)
        at_centre = (coefficients * centre).flatten(2).sum(dim=2)
        slope = vector_norm((coefficients * free).flatten(0, 1), dual_norm(self.norm)).view_as(at_centre)
        return torch.maximum(by_box, at_centre - self.radius[:, None] * slope)


def whole_box_radius(inputs: Tensor, norm: str) -> float:
    """A radius whose ball holds the whole pixel box, wherever its centre."""
    size = inputs[0].numel()
    return {"Linf": 1.0, "L2": size**0.5, "L1": float(size)}[norm]


def propagate(graph: ReluGraph, ball: Ball, tighten: Callable[[int, Interval, dict], Interval] | None = None) -> dict:
    """Box every node of a network.

    Args:
        graph: The network.
        ball: Where the images may be.
        tighten: Improves the box of a ReLU's input before it goes on, given the node, the box, and those before.

    Returns:
        The `Interval` of every node, by its place in the list.
    """
    boxes: dict[int, Interval] = {0: ball.box}
    tight: set[int] = set()
    for index, node in enumerate(graph.nodes[1:], start=1):
        if isinstance(node.layer, Relu):
            (source,) = node.inputs
            if tighten is not None and source not in tight:
                boxes[source] = tighten(source, boxes[source], boxes)
                tight.add(source)
            boxes[index] = Interval(boxes[source].lower.clamp(min=0), boxes[source].upper.clamp(min=0))
        elif isinstance(node.layer, Add):
            left, right = (boxes[source] for source in node.inputs)
            boxes[index] = Interval(left.lower + right.lower, left.upper + right.upper)
        else:
            box = boxes[node.inputs[0]]
            centre = node.layer.linear((box.lower + box.upper) / 2) + node.layer.bias
            half = node.layer.magnitude().linear((box.upper - box.lower) / 2)
            boxes[index] = Interval(centre - half, centre + half)
    return boxes
