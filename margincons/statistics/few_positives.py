"""Limits for a threshold at a true positive rate, and for its false positive rate, that few positives do not break.

The threshold is an extreme quantile of the positives' scores: one that finds 95% of ten lies at the lowest. Resampling
cannot reach beyond the sample, so a bootstrap interval of it fails: with ten positives it holds the threshold half of
the time. The limits here hold at any size and whatever the distributions, and say so where they know nothing.
"""

import numpy as np

FEW_BEYOND = 5  # positives beyond the threshold: with fewer, at 95% below 100 in all, no bootstrap of a difference
ON_THRESHOLD = 0.8  # of a rate's error, fixed beforehand: few positives leave more open than the negatives do


def few_positives(positive: np.ndarray, *, tpr: float = 0.95) -> bool:
    """Whether fewer than `FEW_BEYOND` positives are expected on one side of the threshold that finds ``tpr`` of them.

    Args:
        positive: Booleans or 0/1, (n,).
        tpr: The true positive rate; at 1 there are always too few.
    """
    return bool(round(float(np.sum(positive)) * min(tpr, 1 - tpr), 9) < FEW_BEYOND)


def threshold_limits(
    positive: np.ndarray, score: np.ndarray, *, tpr: float = 0.95, level: float = 0.95
) -> tuple[float, float]:
    """Limits of the threshold that finds a share ``tpr`` of all positives to come, from order statistics.

    The number of m positives that score below a quantile is binomial, so two of their scores enclose it with a chance
    that is known. A limit that lies beyond the sample is infinite: at 95%, the lower one of fewer than 72 positives.

    Source: Scheffe and Tukey, 1945, "Non-parametric estimation. I", Annals of Mathematical Statistics 16, for columns
    with ties, too.

    Args:
        positive: Booleans or 0/1, (n,).
        score: Rises with positive, (n,).
        tpr: The true positive rate.
        level: Least share of such intervals that hold the threshold; the error is split between the two ends.
    """
    from scipy import stats

    found = np.sort(np.asarray(score, dtype=float)[np.asarray(positive, dtype=bool)])
    below, tail = (len(found), 1 - tpr), (1 - level) / 2
    ranked = np.concatenate([[-np.inf], found, [np.inf]])  # by rank, from 1; beyond the sample nothing is known
    return float(ranked[int(stats.binom.ppf(tail, *below))]), float(ranked[int(stats.binom.isf(tail, *below)) + 1])


def fpr_limits(
    positive: np.ndarray, score: np.ndarray, *, tpr: float = 0.95, level: float = 0.95
) -> tuple[float, float]:
    """Limits of the false positive rate at that threshold: shares of negatives at its limits, themselves uncertain.

    Of the error `ON_THRESHOLD` goes to the threshold, by `threshold_limits`, and the rest to the share of negatives
    beyond it, by the exact binomial limits: together they err no more often than they say. Where the threshold has no
    lower limit, at 95% with fewer than 77 positives, the rate has none above but 1.

    Source: Clopper and Pearson, 1934, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26, for the shares. Arguments as in `threshold_limits`.
    """
    from scipy import stats

    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=float)
    error = 1 - level
    lowest, highest = threshold_limits(positive, score, tpr=tpr, level=1 - ON_THRESHOLD * error)
    rest = 1 - (1 - ON_THRESHOLD) * error
    fewest, most = (
        stats.binomtest(int((score[~positive] >= end).sum()), int((~positive).sum())).proportion_ci(rest, "exact")
        for end in (highest, lowest)
    )
    return float(fewest.low), float(most.high)


LIMITS = {"threshold_at_tpr": threshold_limits, "fpr_at_tpr": fpr_limits}  # by name in `metrics`
