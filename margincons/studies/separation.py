"""When a threshold on a score separates brittle from robust decisions exactly, and how that averages to a correlation.

Brittle at epsilon means margin <= epsilon. A threshold separates at epsilon when the brittle images are just those with
score <= threshold. Statements and proofs: the page `theorem`.
"""

import numpy as np
from scipy.stats import rankdata

from margincons.errors import DegenerateError, ShapeError
from margincons.statistics.metrics import auroc
from margincons.statistics.weighted import dense_ranks


def separating_threshold(margins: np.ndarray, scores: np.ndarray, epsilon: float) -> float | None:
    """Threshold with margin <= epsilon exactly where score <= threshold; None where there is none.

    Where one exists, the largest score of a brittle image is one; minus infinity if no image is brittle.

    Args:
        margins: Input margins, (n,).
        scores: Rise with robustness, (n,).
        epsilon: In the unit of the margins.
    """
    margins, scores = _columns(margins, scores)
    brittle = margins <= epsilon
    threshold = scores[brittle].max(initial=-np.inf)
    return float(threshold) if (scores[~brittle] > threshold).all() else None


def separable_epsilons(margins: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At which epsilons a threshold separates.

    Between two neighbouring margins nothing changes, and below the least and from the largest on any order is
    separated; so the distinct margins but the largest are all the epsilons there are to try.

    Returns:
        Those epsilons (m,), rising, and for each whether a threshold separates there, (m,).
    """
    margins, scores = _columns(margins, scores)
    order = np.argsort(margins, kind="stable")
    margins, scores = margins[order], scores[order]
    last = np.flatnonzero(margins[1:] > margins[:-1])  # of each group of equal margins, but the highest
    below = np.maximum.accumulate(scores)
    above = np.minimum.accumulate(scores[::-1])[::-1]
    return margins[last], below[last] < above[last + 1]


def separable_everywhere(margins: np.ndarray, scores: np.ndarray) -> bool:
    """Whether every epsilon has a separating threshold: a smaller margin always comes with a smaller score."""
    return bool(separable_epsilons(margins, scores)[1].all())


def margin_consistent(margins: np.ndarray, scores: np.ndarray) -> bool:
    """Whether margins and scores order all pairs alike, ties included: the paper's definition.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3.
    """
    margins, scores = _columns(margins, scores)
    return bool((dense_ranks(margins) == dense_ranks(scores)).all())


def mean_auroc(margins: np.ndarray, scores: np.ndarray) -> float:
    """AUROC of finding the k smallest margins, averaged over k = 1 .. n - 1 with weights k (n - k).

    Equals (1 + `rank_correlation`) / 2: correlation is detection, averaged over all epsilons.

    Args:
        margins: Input margins (n,), no two alike: among equals the k smallest are not defined.
        scores: Rise with robustness, (n,); ties count one half.

    Raises:
        DegenerateError: If two margins are alike, or there are fewer than two.
    """
    margins, scores = _columns(margins, scores)
    n = len(margins)
    if n < 2 or len(np.unique(margins)) < n:
        raise DegenerateError("The mean AUROC", f"it needs two margins or more, no two alike, got {n}")
    rank = dense_ranks(margins)
    k = np.arange(1, n)
    return float(np.average([auroc(rank < count, -scores) for count in k], weights=k * (n - k)))


def rank_correlation(margins: np.ndarray, scores: np.ndarray) -> float:
    """12 cov(rank of the margin, midrank of the score) / (n^2 - 1): Spearman's rho where nothing is tied.

    With ties in the scores it is smaller in size than Spearman's rho, which divides by the ranks' own spread.
    """
    margins, scores = _columns(margins, scores)
    ranks = rankdata(margins), rankdata(scores)
    return float(12 * np.cov(*ranks, ddof=0)[0, 1] / (len(margins) ** 2 - 1))


def _columns(margins: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    margins, scores = np.asarray(margins, dtype=float), np.asarray(scores, dtype=float)
    if margins.ndim != 1 or margins.shape != scores.shape:
        raise ShapeError("margins and scores", "one number an image each, (n,)", f"{margins.shape} and {scores.shape}")
    if missing := int(np.isnan(margins).sum() + np.isnan(scores).sum()):
        raise DegenerateError("Separation", f"{missing} margins or scores are NaN")
    return margins, scores
