"""The linear relaxation of a ReLU network round one image, as a linear program.

Source: Ehlers, 2017, arXiv:1705.01320. A ReLU whose input z has a known sign is linear and costs nothing. Any other,
with z in [l, u], becomes a variable a >= max(z, 0) under the chord a <= u (z - l) / (u - l). The tighter l and u, the
better the relaxation; so linear programs tighten them first.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csc_array

from margincons.certificates.boxes import Ball, Interval
from margincons.certificates.relu_graph import Add, Relu, ReluGraph

SLACK = 1e-6  # by which bounds found by an LP are widened: ten times the solver's feasibility tolerance
INFEASIBLE = 2  # scipy's status


@dataclass
class Program:
    """Variables with bounds, and rows ``constant + coefficients @ variables <= 0``."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    rows: list[NDArray] = field(default_factory=list)  # blocks (m, 1 + variables so far), the constant first

    def add_variables(self, lower: NDArray, upper: NDArray) -> NDArray:
        """Append variables and return them as expressions, (m, 1 + variables)."""
        first = len(self.lower)
        self.lower += list(lower)
        self.upper += list(upper)
        return np.eye(len(lower), 1 + first + len(lower), 1 + first)

    def require(self, *expressions: NDArray) -> None:
        """Demand that expressions, (m, 1 + variables) each, be at most 0."""
        self.rows += expressions

    def minimise(self, expression: NDArray) -> OptimizeResult:
        """Minimise an expression, (1 + variables,), its constant included in the result's ``fun``."""
        width = 1 + len(self.lower)
        rows = np.concatenate([pad(block, width) for block in self.rows])
        result = milp(
            pad(expression, width)[1:],
            constraints=LinearConstraint(csc_array(rows[:, 1:]), -np.inf, -rows[:, 0]),
            bounds=Bounds(self.lower, self.upper),
            options={"presolve": False},  # it takes longer than the simplex
        )
        if result.x is not None:
            result.fun += expression[0]
        return result


@dataclass(frozen=True)
class Encoding:
    """A network over a ball as a `Program`, and its units as expressions in the program's variables."""

    program: Program
    pixels: NDArray  # (d, 1 + d)
    relu_inputs: dict[int, NDArray]  # by node, (m, 1 + variables so far) each
    relu_outputs: dict[int, NDArray]  # by the same nodes
    logits: NDArray  # (k, 1 + variables)


def encode(graph: ReluGraph, ball: Ball, boxes: dict[int, Interval]) -> Encoding:
    """Write the images of the box round a ball, and the relaxation of what the network makes of them, as a program.

    Args:
        graph: The network.
        ball: Round one image.
        boxes: Bounds of the inputs of every ReLU.
    """
    program, relu_inputs, relu_outputs = Program(), {}, {}
    pixels = program.add_variables(*_ends(ball.box))
    values = [_as_values(pixels, graph.nodes[0].shape)]
    for node in graph.nodes[1:]:
        sources = [values[source] for source in node.inputs]
        if isinstance(node.layer, Relu):
            inputs = sources[0].flatten(1).numpy().T
            low, high = _ends(boxes[node.inputs[0]])
            units = np.flatnonzero((low < 0) & (high > 0))
            relu_inputs[node.inputs[0]] = inputs
            program.require(*_between(inputs, low, high))  # a sign may be known only of where the class is left
            outputs = _relax(program, inputs[units], low[units, None], high[units, None])
            merged = pad(inputs * (low >= 0)[:, None], outputs.shape[1])
            merged[units] = outputs
            relu_outputs[node.inputs[0]] = merged
            values.append(_as_values(merged, node.shape))
        elif isinstance(node.layer, Add):
            width = max(len(value) for value in sources)
            values.append(sum(torch.cat([v, v.new_zeros(width - len(v), *v.shape[1:])]) for v in sources))
        else:
            value = node.layer.linear(sources[0])
            value[0] += node.layer.bias
            values.append(value)
    return Encoding(program, pixels, relu_inputs, relu_outputs, values[-1].numpy().T)


def _relax(program: Program, inputs: NDArray, low: NDArray, high: NDArray) -> NDArray:
    outputs = program.add_variables(np.zeros(len(low)), high[:, 0])
    inputs = pad(inputs, outputs.shape[1])
    chord = high / (high - low) * (inputs - low * np.eye(1, outputs.shape[1]))
    program.require(inputs - outputs, outputs - chord)
    return outputs


def add_radius(encoding: Encoding, ball: Ball, tangents: NDArray | None = None) -> NDArray:
    """Add a variable that is at least the distance to the image and at most the ball's radius; return it, (1 + v,).

    Args:
        encoding: What `encode` gave.
        ball: Round one image.
        tangents: Unit vectors, (m, d). An L2 distance is at least the projection on each; no more is said of it.
    """
    program, radius = encoding.program, ball.radius.item()
    centre = ball.centre.flatten().numpy()
    moved = encoding.pixels - centre[:, None] * np.eye(1, encoding.pixels.shape[1])
    lengths = program.add_variables(np.zeros(len(moved)), np.full(len(moved), radius)) if ball.norm == "L1" else None
    (distance,) = program.add_variables(np.zeros(1), np.full(1, radius))
    moved = pad(moved, len(distance))
    if lengths is None:
        program.require(moved - distance, -moved - distance)
    else:
        lengths = pad(lengths, len(distance))
        program.require(moved - lengths, -moved - lengths, lengths.sum(axis=0, keepdims=True) - distance)
    if tangents is not None:
        program.require(tangents @ moved - distance)
    return distance


def tighten(
    graph: ReluGraph, ball: Ball, boxes: dict[int, Interval], form: NDArray, *, deadline: float
) -> dict[int, Interval] | None:
    """Narrow the bounds of every unstable ReLU by two LPs, over the images of a ball where a form is at most 0.

    Args:
        graph: The network.
        ball: Round one image.
        boxes: Bounds of the inputs of every ReLU.
        form: Coefficients on the logits, (k,).
        deadline: Time (monotonic) at which to leave the remaining bounds as they are.

    Returns:
        Bounds that hold wherever the form is at most 0; None where that is nowhere in the ball.
    """
    boxes = dict(boxes)
    for index in graph.relu_inputs:
        encoding = encode(graph, ball, boxes)
        if ball.norm == "L1":
            add_radius(encoding, ball)
        encoding.program.require(form[None] @ encoding.logits)
        low, high = (end.copy() for end in _ends(boxes[index]))
        for unit in np.flatnonzero((low < 0) & (high > 0)):
            if time.monotonic() > deadline:
                break
            expression = encoding.relu_inputs[index][unit]
            below = encoding.program.minimise(expression)
            above = encoding.program.minimise(-expression)
            if INFEASIBLE in (below.status, above.status):
                return None
            if below.status == 0:
                low[unit] = max(low[unit], below.fun - SLACK)
            if above.status == 0:
                high[unit] = min(high[unit], -above.fun + SLACK)
        shape = boxes[index].lower.shape
        boxes[index] = Interval(torch.from_numpy(low).view(shape), torch.from_numpy(high).view(shape))
    return boxes


def pad(expressions: NDArray, width: int) -> NDArray:
    """Widen expressions (..., m) with zeros to (..., width): variables that came later do not occur in them."""
    return np.concatenate([expressions, np.zeros((*expressions.shape[:-1], width - expressions.shape[-1]))], axis=-1)


def _between(expressions: NDArray, low: NDArray, high: NDArray) -> tuple[NDArray, NDArray]:
    above, below = expressions[np.isfinite(high)], -expressions[np.isfinite(low)]
    above[:, 0] -= high[np.isfinite(high)]
    below[:, 0] += low[np.isfinite(low)]
    return above, below


def _ends(box: Interval) -> tuple[NDArray, NDArray]:
    return box.lower.flatten().numpy(), box.upper.flatten().numpy()


def _as_values(expressions: NDArray, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(expressions.T)).view(-1, *shape)
