"""Margin consistency: how well a cheap score orders images as the input margin does."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from margincons.errors import MissingColumnError, ShapeError
from margincons.scores import robustness_sign
from margincons.statistics.intervals import Estimate, estimate


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Rank correlation of a score with the input margin over one record."""

    tau: Estimate  # Kendall's tau-b
    rho: Estimate  # Spearman's
    n: int  # images
    unbounded: int  # of which the attack found nothing: tied at the top of the order


def consistency(
    table: pd.DataFrame,
    *,
    score: str = "logit_margin",
    margin: str = "upper",
    replicates: int = 1000,
    seed: int = 0,
) -> Consistency:
    """Correlate a score with the input margin, over images.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3; the intervals are ours.

    Args:
        table: A record, one row per image.
        score: A column named in `margincons.scores.SCORES`, which fixes its sign.
        margin: The column that holds the input margin, or a bound on it.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Raises:
        MissingColumnError: If the table lacks a column.
        UnknownNameError: If no score has that name.
        DegenerateError: If there are fewer than two images, or score or margin is constant.
    """
    margins = column(table, margin)
    robustness = robustness_sign(score) * column(table, score)
    options = {"replicates": replicates, "seed": seed}
    return Consistency(
        tau=estimate("kendall_tau", margins, robustness, **options),
        rho=estimate("spearman", margins, robustness, **options),
        n=len(table),
        unbounded=int(np.isinf(margins).sum()),
    )


def binned_medians(
    table: pd.DataFrame, *, bins: int = 10, score: str = "logit_margin", margin: str = "upper", level: float = 0.95
) -> pd.DataFrame:
    """Median score in equally filled bins of the input margin, as the paper draws it, with what the median hides.

    The interval of a median is the sign test's: two order statistics, whatever the distribution. A bin too small for
    one (fewer than 6 images at 95%) has NaN. Images without a finite margin are left out.

    Args:
        table: A record, one row per image.
        bins: Number of bins; fewer where there are fewer images.
        score: A column of the table.
        margin: The column that holds the input margin, or a bound on it.
        level: Share of the intervals that should hold the median of the population in the bin.

    Returns:
        One row per bin, in the order of the margin: "margin" (its median), "median" (of the score), "low", "high",
        "lower quartile", "upper quartile", "images".

    Raises:
        MissingColumnError: If the table lacks a column.
    """
    from scipy.stats import quantile_test

    scores, margins = column(table, score), column(table, margin)
    order = np.argsort(margins, kind="stable")[: np.isfinite(margins).sum()]
    rows = []
    for group in np.array_split(order, min(bins, len(order)) or 1):
        if len(group):
            interval = quantile_test(scores[group], p=0.5).confidence_interval(level)
            lower, middle, upper = np.quantile(scores[group], [0.25, 0.5, 0.75])
            rows.append((np.median(margins[group]), middle, interval.low, interval.high, lower, upper, len(group)))
    names = ["margin", "median", "low", "high", "lower quartile", "upper quartile", "images"]
    return pd.DataFrame(rows, columns=names)


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Take one column of a record as float64, (n,).

    Raises:
        MissingColumnError: If the table lacks it.
        ShapeError: If it does not hold numbers.
    """
    if name not in table:
        raise MissingColumnError(name, table.columns)
    if table[name].dtype.kind not in "buif":
        raise ShapeError(f"the column {name!r}", "numbers", table[name].dtype)
    return table[name].to_numpy(dtype=float)
