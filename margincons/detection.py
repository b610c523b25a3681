"""Detecting brittle decisions: images whose input margin is at most epsilon, found by a cheap score."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from margincons.consistency import column
from margincons.errors import DegenerateError, RecordError
from margincons.scores import robustness_sign
from margincons.statistics.intervals import Estimate, estimate
from margincons.statistics.metrics import auroc
from margincons.statistics.weighted import dense_ranks
from margincons.threat import ThreatModel

DISTANCE_ROUNDING = 1e-6  # of distances between fp32 images on the [0, 1] scale; relative above 1


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a score finds the brittle images of one record; brittle is the positive class."""

    auroc: Estimate
    aupr: Estimate  # average precision
    aupr_trapezoid: Estimate  # trapezoids under the same curve, as the paper computes it
    fpr95: Estimate  # share of robust images flagged where 95% of the brittle ones are
    threshold95: Estimate  # the score at which that happens, in the score's own units
    brittle: Estimate  # base rate
    n: int


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The ROC and precision-recall curves behind the figures."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    recall: np.ndarray
    precision: np.ndarray


def detection(
    table: pd.DataFrame,
    *,
    epsilon: float,
    score: str = "logit_margin",
    margin: str = "upper",
    replicates: int = 1000,
    seed: int = 0,
) -> Detection:
    """Score the detection of images with margin <= epsilon.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 4; the intervals are ours.

    Args:
        table: A record, one row per image.
        epsilon: Radius on the [0, 1] pixel scale, in the record's norm.
        score: A column named in `margincons.scores.SCORES`, which fixes its sign.
        margin: The column that holds the input margin, or a bound on it.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Raises:
        MissingColumnError: If the table lacks a column.
        UnknownNameError: If no score has that name.
        UsageError: If epsilon cannot be meant.
        DegenerateError: If all images are brittle at epsilon, or none.
    """
    brittle, brittleness = _brittle(table, epsilon, score, margin)
    options = {"replicates": replicates, "seed": seed}
    threshold = estimate("threshold_at_tpr", brittle, brittleness, **options)
    return Detection(
        auroc=estimate("auroc", brittle, brittleness, **options),
        aupr=estimate("average_precision", brittle, brittleness, **options),
        aupr_trapezoid=estimate("aupr_trapezoid", brittle, brittleness, **options),
        fpr95=estimate("fpr_at_tpr", brittle, brittleness, **options),
        threshold95=_in_units_of(score, threshold),
        brittle=brittle_share(table, epsilon=epsilon, margin=margin),
        n=len(table),
    )


def curves(table: pd.DataFrame, *, epsilon: float, score: str = "logit_margin", margin: str = "upper") -> Curves:
    """ROC and precision-recall curves of the same detection, through scikit-learn; errors as in `detection`."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    brittle, brittleness = _brittle(table, epsilon, score, margin)
    auroc(brittle, brittleness)  # raises where there is one class only, or NaN
    brittleness = dense_ranks(brittleness)  # scikit-learn refuses infinite scores; curves depend on the order alone
    false_positive_rate, true_positive_rate, _ = roc_curve(brittle, brittleness)
    precision, recall, _ = precision_recall_curve(brittle, brittleness)
    return Curves(
        false_positive_rate=false_positive_rate,
        true_positive_rate=true_positive_rate,
        recall=recall,
        precision=precision,
    )


def brittle_share(table: pd.DataFrame, *, epsilon: float, margin: str = "upper") -> Estimate:
    """Share of images with margin <= epsilon: the base rate of detection."""
    return estimate("accuracy", is_brittle(table, epsilon, margin))


def clean_accuracy(table: pd.DataFrame) -> Estimate:
    """Share of images that are classified correctly."""
    return estimate("accuracy", is_correct(table))


def robust_accuracy(table: pd.DataFrame, *, epsilon: float, margin: str = "upper") -> Estimate:
    """Share of images that are classified correctly and have a margin above epsilon.

    With an upper bound as margin this overestimates.

    Raises:
        RecordError: If the record is of an attack with a budget that is not epsilon.
    """
    check_budget(table, epsilon, margin)
    return estimate("robust_accuracy", is_correct(table), column(table, margin), epsilon=float(brittle_reach(epsilon)))


def tells_brittle(table: pd.DataFrame, epsilon: float) -> bool:
    """Whether a record's distances say who is brittle at epsilon.

    Those of an attack with a budget do so at that budget only: beyond it they are infinite, below it not the least.
    """
    return table.attrs.get("settings", {}).get("epsilon") in (None, epsilon)


def check_budget(table: pd.DataFrame, epsilon: float, margin: str = "upper") -> None:
    """Refuse to say who is brittle by distances that do not tell: `tells_brittle`; lower bounds hold everywhere.

    Raises:
        RecordError: If the margin is that of an attack with a budget that is not epsilon.
    """
    if margin == "upper" and not tells_brittle(table, epsilon):
        settings = table.attrs["settings"]
        raise RecordError(
            f"Expected a record that says who is brittle at {epsilon:.4g}, got {settings.get('attack')} with a budget "
            f"of {settings['epsilon']:.4g}, which says it there only; take that epsilon, or a minimum-norm attack."
        )


def is_correct(table: pd.DataFrame) -> np.ndarray:
    """Whether each image is classified correctly, (n,)."""
    return column(table, "label") == column(table, "predicted")


def _brittle(table: pd.DataFrame, epsilon: float, score: str, margin: str) -> tuple[np.ndarray, np.ndarray]:
    return is_brittle(table, epsilon, margin), -robustness_sign(score) * column(table, score)


def is_brittle(table: pd.DataFrame, epsilon: float, margin: str = "upper") -> np.ndarray:
    """Whether each image's margin is at most epsilon, up to the rounding of fp32 images, (n,).

    Raises:
        DegenerateError: If a margin is NaN.
        MissingColumnError: If the table lacks the column.
        UsageError: If epsilon cannot be meant, such as 8 for 8/255 where the table says that its norm is Linf.
        RecordError: If the record is of an attack with a budget that is not epsilon.
    """
    ThreatModel(norm=table.attrs.get("settings", {}).get("norm", "L2"), epsilon=epsilon)
    check_budget(table, epsilon, margin)
    margins = column(table, margin)
    if missing := np.isnan(margins).sum():
        raise DegenerateError("Brittleness", f"{missing} of {len(margins)} rows of {margin} are NaN")
    return margins <= brittle_reach(epsilon)


def brittle_reach(epsilon: float | np.ndarray) -> float | np.ndarray:
    """Largest margin that counts as epsilon: fp32 images whose attack spent just epsilon can lie an ulp further."""
    return epsilon + DISTANCE_ROUNDING * np.maximum(1.0, epsilon)


def _in_units_of(score: str, threshold: Estimate) -> Estimate:
    """Undo the sign that made the score rise with brittleness."""
    if robustness_sign(score) < 0:
        return threshold
    return replace(threshold, value=-threshold.value, low=-threshold.high, high=-threshold.low)
