"""Certificates: what no attack can beat. Lower bounds by relaxation, exact margins by branch and bound."""

from margincons.certificates.brackets import Bracket, bracket
from margincons.certificates.certified import lower_bounds
from margincons.certificates.exact import ExactMargins, exact_margins
from margincons.certificates.tracing import relu_graph

__all__ = ["Bracket", "ExactMargins", "bracket", "exact_margins", "lower_bounds", "relu_graph"]
