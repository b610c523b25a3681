"""Scores of brittleness that cost more than one forward pass: gradients, reference images, or many passes.

Pure functions, one file each. `margincons.scores.NOT_RECORDED` declares their signs, `margincons.studies.score_jobs`
counts what they cost.
"""

from margincons.costly_scores.clever import clever
from margincons.costly_scores.gradient_norm import gradient_norm
from margincons.costly_scores.neighbours import neighbour_distance
from margincons.costly_scores.smoothing import smoothing_radius

__all__ = ["clever", "gradient_norm", "neighbour_distance", "smoothing_radius"]
