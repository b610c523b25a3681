"""Rank correlation, detection, accuracy and spread: one number each; `intervals` adds what sampling leaves open.

Positive is what is to be detected (a brittle decision, or a failure) and scores rise with it; no sign is taken
from data. Only the order of margins and scores counts: infinite ones are legal, stand at their end of the order
and tie among themselves, as failed attacks should. NaN is refused.
"""

import numpy as np

from margincons.errors import DegenerateError, ShapeError, UsageError
from margincons.statistics import weighted

STATISTICS = (
    "kendall_tau",
    "spearman",
    "auroc",
    "average_precision",
    "aupr_trapezoid",
    "fpr_at_tpr",
    "threshold_at_tpr",
    "augrc",
    "accuracy",
    "robust_accuracy",
    "log_spread",
)  # each a function here, and under the same name in `weighted`


def kendall_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of two columns (n,), corrected for ties in either.

    Source: Kendall, 1945, "The treatment of ties in ranking problems", Biometrika 33.

    Raises:
        DegenerateError: If a column is constant, holds NaN or has fewer than two rows.
        ShapeError: If the columns are not two of one length.
    """
    from scipy.stats import kendalltau

    x, y = _two_columns("Kendall's tau", x, y)
    return float(kendalltau(weighted.dense_ranks(x), weighted.dense_ranks(y)).statistic)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho of two columns (n,): the Pearson correlation of their midranks.

    Raises:
        DegenerateError: If a column is constant, holds NaN or has fewer than two rows.
        ShapeError: If the columns are not two of one length.
    """
    return weighted.once(weighted.spearman, *_two_columns("Spearman's rho", x, y))


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Probability that a positive row scores above a negative one, ties counted one half.

    Args:
        positive: Booleans or 0/1, (n,).
        score: Rises with positive, (n,).

    Raises:
        DegenerateError: If one class is missing, a score is NaN, or there are fewer than two rows.
        ShapeError: If the columns do not match, or ``positive`` holds more than 0 and 1.
    """
    return weighted.once(weighted.auroc, *_two_classes("AUROC", positive, score))


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Precision averaged over the steps of recall, without interpolation; arguments as in `auroc`."""
    return weighted.once(weighted.average_precision, *_two_classes("Average precision", positive, score))


def aupr_trapezoid(positive: np.ndarray, score: np.ndarray) -> float:
    """Trapezoid under the precision-recall curve from (recall 0, precision 1); arguments as in `auroc`.

    The paper's AUPR. Straight lines between points of this curve are optimistic: `average_precision` is not.
    Source: Davis and Goadrich, 2006, "The relationship between precision-recall and ROC curves", ICML.
    """
    return weighted.once(weighted.aupr_trapezoid, *_two_classes("AUPR", positive, score))


def fpr_at_tpr(positive: np.ndarray, score: np.ndarray, tpr: float = 0.95) -> float:
    """Least false positive rate among the thresholds that find a share ``tpr`` of the positives or more.

    Rows of one score fall on the same side of every threshold. Arguments and errors as in `auroc`.

    Raises:
        UsageError: If ``tpr`` is not in (0, 1].
    """
    _check_tpr(tpr)
    return weighted.once(weighted.fpr_at_tpr, *_two_classes("FPR at a TPR", positive, score), tpr=tpr)


def threshold_at_tpr(positive: np.ndarray, score: np.ndarray, tpr: float = 0.95) -> float:
    """Score t of `fpr_at_tpr`: the largest for which ``score >= t`` finds a share ``tpr`` of the positives.

    Raises:
        UsageError: If ``tpr`` is not in (0, 1].
    """
    _check_tpr(tpr)
    return weighted.once(weighted.threshold_at_tpr, *_two_classes("A threshold at a TPR", positive, score), tpr=tpr)


def augrc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the generalised risk-coverage curve: the risk of silent failures; less is better.

    Rows are accepted from the lowest score up; the generalised risk is the share of all rows that are both
    accepted and failures, the coverage the share accepted. Rows of one score are accepted along a straight line,
    so the area is (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2 with acc the share of non-failures.

    Source: Traub et al., 2024, arXiv:2407.01032.

    Args:
        positive: Failures, booleans or 0/1, (n,).
        score: Rises with failure, (n,).

    Raises:
        DegenerateError: If one class is missing, a score is NaN, or there are fewer than two rows.
        ShapeError: If the columns do not match, or ``positive`` holds more than 0 and 1.
    """
    return weighted.once(weighted.augrc, *_two_classes("AUGRC", positive, score))


def accuracy(correct: np.ndarray) -> float:
    """Share of the rows of ``correct``, booleans or 0/1 (n,), that are true."""
    return weighted.once(weighted.accuracy, *_columns("Accuracy", 1, correct=_flags("correct", correct)))


def robust_accuracy(correct: np.ndarray, margin: np.ndarray, epsilon: float) -> float:
    """Share of rows that are correct with an input margin above ``epsilon``.

    With upper bounds for margins this is an upper bound; with lower bounds, a certified one.

    Args:
        correct: Booleans or 0/1, (n,).
        margin: Input margins (n,), in the norm and on the scale of ``epsilon``; infinite where no attack succeeded.
        epsilon: Radius of the threat model.
    """
    columns = _columns("Robust accuracy", 1, correct=_flags("correct", correct), margin=margin)
    return weighted.once(weighted.robust_accuracy, *columns, epsilon=epsilon)


def log_spread(values: np.ndarray) -> float:
    """Standard deviation of the logarithms of positive values (n,): 0.1 means about 10% up or down.

    Raises:
        DegenerateError: If a value is NaN, infinite or not above 0, or there are fewer than two.
    """
    (column,) = _columns("A spread", 2, values=values)
    if wrong := (~(np.isfinite(column) & (column > 0))).sum():
        raise DegenerateError("A spread", f"{wrong} of {len(column)} values are not positive and finite")
    return weighted.once(weighted.log_spread, column)


def flags(**columns: np.ndarray) -> list[np.ndarray]:
    """Check columns of booleans or 0/1 that belong together, (n,) each, and return them as numbers.

    Raises:
        DegenerateError: If there is no row.
        ShapeError: If the columns do not match, or hold more than 0 and 1.
    """
    return _columns("A share", 1, **{name: _flags(name, column) for name, column in columns.items()})


def _columns(statistic: str, least: int, **columns: np.ndarray) -> list[np.ndarray]:
    arrays = [np.asarray(column, dtype=float) for column in columns.values()]
    n = arrays[0].size
    for name, array in zip(columns, arrays, strict=True):
        if array.shape != (n,):
            raise ShapeError(name, f"one number a row, ({n},)", array.shape)
        if missing := np.isnan(array).sum():
            raise DegenerateError(statistic, f"{missing} of {n} rows of {name} are NaN")
    if n < least:
        raise DegenerateError(statistic, f"it needs {least} rows or more, got {n}")
    return arrays


def _two_columns(statistic: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    arrays = _columns(statistic, 2, x=x, y=y)
    for name, array in zip("xy", arrays, strict=True):
        if (array == array[0]).all():
            raise DegenerateError(statistic, f"all {len(array)} rows of {name} are {array[0]:g}")
    return arrays


def _two_classes(statistic: str, positive: np.ndarray, score: np.ndarray) -> list[np.ndarray]:
    arrays = _columns(statistic, 2, positive=_flags("positive", positive), score=score)
    n, positives = len(arrays[0]), int(arrays[0].sum())
    if positives in {0, n}:
        raise DegenerateError(statistic, f"{'none' if positives == 0 else 'all'} of {n} rows are positive")
    return arrays


def _flags(name: str, column: np.ndarray) -> np.ndarray:
    flags = np.asarray(column)
    if not np.isin(flags, (0, 1)).all():
        raise ShapeError(name, "booleans or 0/1", f"values such as {flags[~np.isin(flags, (0, 1))][0]}")
    return flags


def _check_tpr(tpr: float) -> None:
    if not 0 < tpr <= 1:
        raise UsageError(f"Expected a true positive rate in (0, 1], got {tpr:g}; is it a percentage?")
