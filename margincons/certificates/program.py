"""A ReLU network as a mixed-integer linear program, or as its relaxation, for one image.

Source: Tjeng, Xiao, Tedrake, 2019, arXiv:1711.07356. A ReLU whose input z has a known sign is linear and costs
nothing. Any other, with z in [l, u], becomes a variable a >= max(z, 0), which a switch s in {0, 1} holds down:
a <= u s and a <= z - l (1 - s). The relaxation has the chord a <= u (z - l) / (u - l) in place of the switch.
The tighter l and u, the fewer the switches and the better the relaxation; so LPs tighten them first.
"""

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
    integer: list[bool] = field(default_factory=list)
    rows: list[NDArray] = field(default_factory=list)  # each (1 + variables so far,), the constant first

    def add_variables(self, lower: NDArray, upper: NDArray, *, integer: bool = False) -> NDArray:
        """Append variables and return them as expressions, (m, 1 + variables)."""
        first = len(self.lower)
        self.lower += list(lower)
        self.upper += list(upper)
        self.integer += [integer] * len(lower)
        return np.eye(len(lower), 1 + first + len(lower), 1 + first)

    def require(self, *expressions: NDArray) -> None:
        """Demand that expressions, (m, 1 + variables) each, be at most 0."""
        for expression in expressions:
            self.rows += list(expression)

    def minimise(self, expression: NDArray, *, time_limit: float = np.inf) -> OptimizeResult:
        """Minimise an expression, (1 + variables,); its constant is left out of the result."""
        width = 1 + len(self.lower)
        rows = np.stack([pad(row, width) for row in self.rows])
        options = {"mip_rel_gap": 1e-9, "presolve": any(self.integer)}
        return milp(
            pad(expression, width)[1:],
            constraints=LinearConstraint(csc_array(rows[:, 1:]), -np.inf, -rows[:, 0]),
            bounds=Bounds(self.lower, self.upper),
            integrality=np.array(self.integer, dtype=int),
            options=options | ({"time_limit": time_limit} if time_limit < np.inf else {}),
        )


def pad(expressions: NDArray, width: int) -> NDArray:
    """Widen expressions (..., m) with zeros to (..., width): variables that came later do not occur in them."""
    return np.concatenate([expressions, np.zeros((*expressions.shape[:-1], width - expressions.shape[-1]))], axis=-1)
