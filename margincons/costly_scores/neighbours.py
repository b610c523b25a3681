"""Distance to the images that a network knows, in its own features."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from margincons.errors import UsageError


def neighbour_distance(features: Tensor, known: Tensor, *, k: int = 5) -> Tensor:
    """Distance to the k-th nearest known image, all features scaled to unit length.

    Source: Sun et al., 2022, ICML, arXiv:2204.06507.

    Args:
        features: Of the images to score, (n, d).
        known: Features of other images, (m, d): of training images, where they are at hand.
        k: Which neighbour; 1 is the nearest.

    Returns:
        One Euclidean distance per image, (n,), from 0 to 2.

    Raises:
        UsageError: If there are fewer than k known images, or k is below 1.
    """
    if not 1 <= k <= len(known):
        raise UsageError(f"Expected a neighbour from 1 to {len(known)}, as many as there are known images, got k={k}.")
    exact = "donot_use_mm_for_euclid_dist"  # the product form cancels where two images are close
    distances = torch.cdist(normalize(features, dim=1), normalize(known, dim=1), compute_mode=exact)
    return distances.kthvalue(k, dim=1).values
