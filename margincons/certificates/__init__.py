"""Certificates: what no attack can beat. Lower bounds by relaxation, exact margins by mixed-integer programs."""

from margincons.certificates.certified import lower_bounds
from margincons.certificates.exact import ExactMargins, exact_margins
from margincons.certificates.tracing import relu_graph

__all__ = ["ExactMargins", "exact_margins", "lower_bounds", "relu_graph"]
