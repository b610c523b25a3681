"""Neural collapse: how far features and last layer are from the simplex that training tends to.

Every measure is 0 where the collapse is complete. Classes weigh the same, however many images each has.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from margincons.classifier import Head
from margincons.errors import DegenerateError, ShapeError

RANK = 1e-10  # eigenvalues of the spread of class means below this share of the largest are rounding


@dataclass(frozen=True, kw_only=True)
class NeuralCollapse:
    """The four phenomena of neural collapse, each as a distance from it: 0 is collapsed."""

    variability: float  # NC1: tr(within @ pinv(between)) / k: spread inside classes, in units of the spread of means
    unequal_norms: float  # NC2: standard deviation of the lengths of the centred class means, over their mean
    unequal_angles: float  # NC2: mean over pairs of |cosine + 1 / (k - 1)|
    duality: float  # NC3: squared distance between weights and centred means, each scaled to Frobenius norm 1
    disagreement: float  # NC4: share of images whose class is not the one of the nearest class mean


def neural_collapse(features: Tensor, labels: Tensor, head: Head) -> NeuralCollapse:
    """Measure how far the last layer's inputs and weights are from a simplex equiangular tight frame.

    With class means m_c, their mean m and k classes: within = mean over classes of the covariance of features around
    m_c, between = covariance of the m_c around m. In the limit images of a class share one feature (NC1), the centred
    means m_c - m have equal lengths and pairwise cosines -1 / (k - 1) (NC2), the rows of the head are the centred means
    up to one scale (NC3), and the decision is the nearest class mean (NC4).

    Source: Papyan, Han and Donoho, 2020, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, arXiv:2008.08186; there, classes have equally many images.

    Args:
        features: Inputs of the last layer, (n, d); of training images, where the limit is stated.
        labels: Classes, (n,), each of 0 .. k - 1 present.
        head: The last layer, with weights (k, d).

    Raises:
        ShapeError: If features, labels and head do not belong together.
        DegenerateError: If a class has no image, or all class means coincide.
    """
    features, weight = features.double(), head.weight.detach().double()
    classes, dimension = weight.shape
    if features.dim() != 2 or features.shape[1] != dimension:
        raise ShapeError("features", f"(n, {dimension}), as the head takes them", tuple(features.shape))
    if labels.shape != features.shape[:1]:
        raise ShapeError("labels", f"({len(features)},), one per image", tuple(labels.shape))
    means = class_means(features, labels, classes)
    centred = means - means.mean(dim=0)
    if not centred.any():
        raise DegenerateError("Neural collapse", "all class means are the same")
    deviations = (features - means[labels]) / labels.bincount(minlength=classes)[labels].sqrt()[:, None]
    within, between = deviations.T @ deviations / classes, centred.T @ centred / classes
    lengths = centred.norm(dim=1)
    cosines = (centred @ centred.T / (lengths[:, None] * lengths)).nan_to_num()
    pairs = cosines[~torch.eye(classes, dtype=torch.bool)]
    decided = (features @ weight.T + head.bias.detach().double()).argmax(dim=1)
    return NeuralCollapse(
        variability=torch.trace(within @ torch.linalg.pinv(between, rtol=RANK, hermitian=True)).item() / classes,
        unequal_norms=(lengths.std(correction=0) / lengths.mean()).item(),
        unequal_angles=(pairs + 1 / (classes - 1)).abs().mean().item(),
        duality=(weight / weight.norm() - centred / centred.norm()).square().sum().item(),
        disagreement=(decided != torch.cdist(features, means).argmin(dim=1)).double().mean().item(),
    )


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class, (k, d).

    Raises:
        DegenerateError: If a class has no image.
    """
    counts = labels.bincount(minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        absent = (counts[:classes] == 0).sum().item()
        raise DegenerateError("A class mean", f"{absent} of {classes} classes have no image, or labels go beyond them")
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None]
