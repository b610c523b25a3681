"""Geometry behind margin consistency: how distances travel from pixels to features, and from features to logits."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from margincons.brief import Brief
from margincons.classifier import Classifier, Head
from margincons.consistency import column
from margincons.errors import DegenerateError, UsageError
from margincons.scores import class_distances
from margincons.statistics.intervals import Estimate, estimate
from margincons.threat import per_item, vector_norm


@dataclass(frozen=True, kw_only=True)
class Isometry:
    """Whether a feature extractor keeps the order of distances, over one record; three Kendall taus."""

    input_feature: Estimate  # input margin and feature distance
    feature_logit: Estimate  # feature distance and logit margin
    input_logit: Estimate  # input margin and logit margin
    margin_spread: Estimate  # log_spread of the input margins: what there is to order
    stretch_spread: Estimate  # log_spread of the stretch: what disturbs the order; 0 for a scaled isometry
    n: int  # images with a witness
    left_out: int  # images on which the attack found nothing


def isometry(table: pd.DataFrame, *, margin: str = "upper", replicates: int = 1000, seed: int = 0) -> Isometry:
    """Correlate input margin, feature distance and logit margin, on the images where a witness was found.

    The feature distance is ||h(x') - h(x)|| from an image x to its witness x', in the record's norm.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3; intervals, standard errors and spreads are ours.

    Args:
        table: A record, one row per image.
        margin: The column that holds the input margin.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Raises:
        MissingColumnError: If the table lacks a column.
        DegenerateError: If fewer than two images have a feature distance, or one of the three is constant.
    """
    moved = column(table, "feature_distance")
    known = table[np.isfinite(moved)]
    if len(known) < 2:
        raise DegenerateError("Isometry", f"{len(known)} of {len(table)} images have a feature distance")
    inputs, features, logits = (column(known, name) for name in (margin, "feature_distance", "logit_margin"))
    options = {"replicates": replicates, "seed": seed}
    return Isometry(
        input_feature=estimate("kendall_tau", inputs, features, **options),
        feature_logit=estimate("kendall_tau", features, logits, **options),
        input_logit=estimate("kendall_tau", inputs, logits, **options),
        margin_spread=_log_spread(inputs, **options),
        stretch_spread=_log_spread(stretch(known, margin=margin), **options),
        n=len(known),
        left_out=len(table) - len(known),
    )


def stretch(table: pd.DataFrame, *, margin: str = "upper") -> np.ndarray:
    """Feature distance per unit of input distance along the attack, (n,).

    NaN where either is missing, or the input distance is 0; 0 where the features did not move.
    """
    inputs, features = column(table, margin), column(table, "feature_distance")
    known = np.isfinite(inputs) & (inputs > 0)
    return np.divide(features, inputs, out=np.full_like(inputs, np.nan), where=known)


def stretch_along(
    classifier: Classifier, inputs: Tensor, adversarial: Tensor, shares: Tensor, *, norm: str, batch_size: int = 256
) -> Tensor:
    """Feature distance per unit of input distance, part of the way to a witness: constant along a straight stretch.

    Args:
        classifier: A network with a head.
        inputs: Images (n, c, h, w) in [0, 1].
        adversarial: Their witnesses (n, c, h, w).
        shares: Parts of the way, (m,), in (0, 1].
        norm: Norm of both distances.
        batch_size: Images per forward pass.

    Returns:
        ||h(x + t (x' - x)) - h(x)|| / (t ||x' - x||), (n, m); NaN where image and witness are the same.

    Raises:
        NoHeadError: If the network does not end in a linear layer.
        UsageError: If a share is not in (0, 1].
    """
    if not ((shares > 0) & (shares <= 1)).all():
        raise UsageError(f"Expected shares of the way in (0, 1], got {shares.tolist()}.")
    delta = adversarial - inputs
    clean, length = classifier.features(inputs, batch_size=batch_size), vector_norm(delta, norm).to(classifier.device)
    columns = []
    for share in shares.tolist():
        moved = classifier.features((inputs + share * delta).clamp(0, 1), batch_size=batch_size)
        columns.append(vector_norm(moved - clean, norm) / (share * length))
    return torch.where(per_item(length, delta).flatten(1) > 0, torch.stack(columns, dim=1), torch.nan)


@dataclass(frozen=True, kw_only=True, repr=False)
class Equidistance(Brief):
    """How alike the distances between the classes of a head are: properties of the weights, no sample, no interval.

    The logit margin divided by the longest distance is at most the exact feature margin, and divided by the
    shortest at least. So two images whose logit margins differ by more than the factor 1 / ``index`` are ordered
    alike by both.
    """

    distances: Tensor  # (k (k - 1) / 2,), between the rows of each pair of classes, in the dual norm
    index: float  # shortest over longest: 1 where all pairs are equidistant, 0 where two classes share their weights
    variation: float  # standard deviation over mean


def equidistance(head: Head, *, norm: str) -> Equidistance:
    """Compare the distances between the rows of the last layer's weights.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3, who look at boxplots; the index is ours.

    Args:
        head: The last linear layer of a network.
        norm: Norm of the feature space; distances between weights are in its dual.

    Raises:
        DegenerateError: If all classes share their weights.
    """
    table = class_distances(head, norm=norm)
    first, second = torch.triu_indices(*table.shape, offset=1, device=table.device)
    distances = table[first, second].double().cpu()
    if not distances.any():
        raise DegenerateError("Equidistance", f"all {len(table)} classes share their weights")
    return Equidistance(
        distances=distances,
        index=float(distances.min() / distances.max()),
        variation=float(distances.std(correction=0) / distances.mean()),
    )


def _log_spread(values: np.ndarray, **options: int) -> Estimate:
    """Leave out what has no logarithm: a margin of 0, or features that did not move."""
    return estimate("log_spread", values[np.isfinite(values) & (values > 0)], **options)
