"""The statistics of `metrics` on weighted rows, for all bootstrap samples at once.

Weights are an array (n, r) of integers held as floats: how often each of n rows was drawn into each of r samples.
The rows are sorted once, whatever r is. Every function returns one value a sample, (r,): what the statistic is on
the rows repeated as often as drawn, and NaN where it is not defined (a class is missing, a column is constant).

Rows are drawn one by one, as if they were independent: clusters of like images, and weights of a survey's design, are
not covered. Nor can samples of the rows show a threshold at a TPR, or its FPR, that few positives decide, or an area
near 1: for those `intervals` turns to `few_positives` and `limits`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BLOCK_CELLS = 8_000_000  # pairs of rows that Kendall's tau holds at once


def once(statistic: Callable[..., np.ndarray], *columns: np.ndarray, **options: float) -> float:
    """Value of a weighted statistic on its columns as they are, every row once."""
    return float(statistic(np.ones((len(columns[0]), 1)), *columns, **options)[0])


def auroc(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, by trapezoids: ties across the classes count one half."""
    curve = _Curve.of(weights, positive, score)
    ahead = (np.diff(curve.false, axis=0) * (curve.true[1:] + curve.true[:-1])).sum(axis=0) / 2
    return ahead / (curve.positives * curve.negatives)


def average_precision(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Precision at each threshold, weighted by the step of recall that ends there."""
    curve = _Curve.of(weights, positive, score)
    return (np.diff(curve.true, axis=0) * curve.precision[1:]).sum(axis=0) / curve.positives


def aupr_trapezoid(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Trapezoids under the precision-recall curve, which starts at (recall 0, precision 1)."""
    curve = _Curve.of(weights, positive, score)
    precision = curve.precision
    return (np.diff(curve.true, axis=0) * (precision[1:] + precision[:-1])).sum(axis=0) / (2 * curve.positives)


def fpr_at_tpr(weights: np.ndarray, positive: np.ndarray, score: np.ndarray, tpr: float = 0.95) -> np.ndarray:
    """False positive rate at the highest threshold that finds a share ``tpr`` of the positives."""
    curve = _Curve.of(weights, positive, score)
    return np.take_along_axis(curve.false, curve.first_at(tpr), axis=0)[0] / curve.negatives


def threshold_at_tpr(weights: np.ndarray, positive: np.ndarray, score: np.ndarray, tpr: float = 0.95) -> np.ndarray:
    """That threshold itself."""
    curve = _Curve.of(weights, positive, score)
    return np.where(np.isnan(curve.positives), np.nan, curve.thresholds[curve.first_at(tpr)[0] - 1])


def augrc(weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area under the generalised risk-coverage curve, through its identity with AUROC."""
    failures = positive @ weights / weights.sum(axis=0)
    return (1 - auroc(weights, positive, score)) * failures * (1 - failures) + failures**2 / 2


def accuracy(weights: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Share of flags that are set."""
    return flags @ weights / weights.sum(axis=0)


def robust_accuracy(weights: np.ndarray, correct: np.ndarray, margin: np.ndarray, epsilon: float) -> np.ndarray:
    """Share of rows that are correct with a margin above ``epsilon``."""
    return accuracy(weights, correct * (margin > epsilon))


def log_spread(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Standard deviation of the logarithms of positive values."""
    logs = np.log(values)
    mean = logs @ weights / weights.sum(axis=0)
    return np.sqrt((weights * (logs[:, None] - mean) ** 2).sum(axis=0) / weights.sum(axis=0))


def kendall_tau(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b: w' S w / 2 over the root of the pairs apart in x times those in y, S the sign of each pair.

    Time grows with the square of the rows. Sums along a row of S are whole or half numbers no larger than the
    sample, so float32 holds them exactly below 2^23 rows.
    """
    x, y = dense_ranks(x), dense_ranks(y)
    counts = weights.astype(np.float32)
    lead = np.zeros(weights.shape[1])
    block = max(1, BLOCK_CELLS // len(x))
    for start in range(0, len(x), block):
        rows, later = slice(start, start + block), slice(start, None)
        signs = (_pair_signs(x[rows], x[later]) * _pair_signs(y[rows], y[later])).astype(np.float32)
        signs[:, :block] /= 2  # the block on the diagonal meets each of its pairs twice
        lead += (weights[rows] * (signs @ counts[later])).sum(axis=0)
    return _ratio(lead, np.sqrt(_pairs_apart(weights, x)) * np.sqrt(_pairs_apart(weights, y)))


def spearman(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of the midranks that the repeated rows would have."""
    centred, squares = [], []
    for column in (x, y):
        tied = _weights_of_ties(weights, column)
        rank = np.cumsum(tied, axis=0) - tied / 2 - weights.sum(axis=0) / 2  # midrank less its mean, (n + 1) / 2
        centred.append(rank[dense_ranks(column)])
        squares.append((tied * rank**2).sum(axis=0))
    return _ratio((weights * centred[0] * centred[1]).sum(axis=0), np.sqrt(squares[0]) * np.sqrt(squares[1]))


def dense_ranks(column: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of ``column``, (n,), equal where it is equal: infinities become ordinary ranks."""
    return np.unique(column, return_inverse=True)[1]


@dataclass(frozen=True)
class _Curve:
    """Counts of rows flagged at each threshold, from none at all down to the lowest score; one column a sample."""

    thresholds: np.ndarray  # (t,), the distinct scores, highest first
    true: np.ndarray  # (t + 1, r), positives at or above each threshold; the first row is zero
    false: np.ndarray  # (t + 1, r), negatives at or above
    positives: np.ndarray  # (r,), all of them; NaN where a class is missing
    negatives: np.ndarray  # (r,), likewise

    @classmethod
    def of(cls, weights: np.ndarray, positive: np.ndarray, score: np.ndarray) -> "_Curve":
        """Sort once and count every sample along the order."""
        order = np.argsort(-score, kind="stable")
        ends = _ends_of_ties(score[order])
        drawn = weights[order]
        true, both = (
            np.concatenate([np.zeros_like(drawn[:1]), np.cumsum(counts, axis=0)[ends]])
            for counts in (drawn * positive[order][:, None], drawn)
        )
        false = both - true
        defined = (true[-1] > 0) & (false[-1] > 0)
        positives, negatives = (np.where(defined, counts[-1], np.nan) for counts in (true, false))
        return cls(score[order][ends], true, false, positives, negatives)

    @property
    def precision(self) -> np.ndarray:
        """Share of positives among the flagged, (t + 1, r); 1 where nothing is flagged."""
        flagged = self.true + self.false
        return np.divide(self.true, flagged, out=np.ones_like(flagged), where=flagged > 0)

    def first_at(self, tpr: float) -> np.ndarray:
        """Row (1, r) of the highest threshold that finds a share ``tpr`` of the positives."""
        return np.argmax(self.true / self.positives >= tpr, axis=0)[None]


def _pair_signs(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows[:, None] > columns).view(np.int8) - (rows[:, None] < columns).view(np.int8)


def _pairs_apart(weights: np.ndarray, column: np.ndarray) -> np.ndarray:
    return (weights.sum(axis=0) ** 2 - (_weights_of_ties(weights, column) ** 2).sum(axis=0)) / 2


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def _weights_of_ties(weights: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Weight of each distinct value (t, r), lowest first."""
    order = np.argsort(column, kind="stable")
    starts = np.append(0, _ends_of_ties(column[order])[:-1] + 1)
    return np.add.reduceat(weights[order], starts, axis=0)


def _ends_of_ties(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
